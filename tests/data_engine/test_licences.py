"""Licences by tag, text, and address: the right name or 'cannot be told', never another one."""

import re
from importlib import metadata

import pytest

from data_engine import licences

MIT = (
    "The MIT License\n\nCopyright (c) 2020 X\n\nPermission is hereby granted, free of charge, to any person obtaining\n"
    "a copy of this software ... The above copyright notice and this permission notice shall be included in all\n"
    "copies or substantial portions of the Software."
)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("# SPDX-License-Identifier: Apache-2.0\nimport os", "Apache-2.0"),
        (
            "/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */",
            "(GPL-2.0 WITH Linux-syscall-note) OR MIT",
        ),
        ("/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */", "GPL-2.0 WITH Linux-syscall-note"),
        ("// SPDX-License-Identifier: MIT OR Apache-2.0\n", "MIT OR Apache-2.0"),
        ("<!-- SPDX-License-Identifier: MIT -->", "MIT"),
        ("# a file about SPDX-License-Identifier: \n", ""),
        ("x" * 9000 + "SPDX-License-Identifier: MIT", ""),
    ],
)
def test_tags(head, expected):
    assert licences.of_source_file(head) == expected


def test_installed_packages_agree_with_what_their_metadata_states():
    """The oracle: packages of this environment that state a single SPDX id and carry one licence file."""
    checked, wrong = 0, []
    for package in metadata.distributions():
        stated = package.metadata.get("License-Expression") or ""
        files = [
            file for file in package.files or [] if licences.is_licence_file(file.name) and "dist-info" in str(file)
        ]
        if not re.fullmatch(r"[A-Za-z0-9.-]+", stated) or len(files) != 1:
            continue
        path = package.locate_file(files[0])
        if not path.is_file() or not path.stat().st_size:
            continue
        told = licences.of_text(path.read_text(encoding="utf-8", errors="replace"))
        if told == licences.UNKNOWN:
            continue
        checked += 1
        if told not in (stated, re.sub(r"-(only|or-later)$", "", stated)):
            wrong.append((package.metadata["Name"], stated, told))
    assert checked >= 30
    assert wrong == []


def test_variants_of_a_family_are_told_apart():
    assert licences.of_text(MIT) == "MIT"
    assert (
        licences.of_text("GNU GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007 ... GNU Affero General Public License")
        == "GPL-3.0"
    )
    assert (
        licences.of_text("GNU LESSER GENERAL PUBLIC LICENSE\nVersion 3 ... the GNU General Public License version 3")
        == "LGPL-3.0"
    )
    assert licences.of_text("All rights reserved. You may look at it.") == licences.UNKNOWN


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        *(
            (name, True)
            for name in ("LICENSE", "LICENCE.md", "LICENSE-MIT", "COPYING", "COPYING.LESSER", "LICENSE-2.0")
        ),
        *((name, False) for name in ("licenses.py", "license.go", "README", "COPYING.c")),
    ],
)
def test_licence_files_by_name(name, is_one):
    assert licences.is_licence_file(name) == is_one


def test_files_of_one_folder():
    apache = "Apache License\nVersion 2.0, January 2004"
    assert licences.of_folder({"LICENSE-MIT": MIT, "LICENSE-APACHE": apache}) == "Apache-2.0 OR MIT"
    assert licences.of_folder({"LICENSE": MIT, "COPYING": apache}) == "Apache-2.0 AND MIT"


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (b'<a rel="license" href="https://creativecommons.org/licenses/by-sa/4.0/">', "CC-BY-SA-4.0"),
        (b"<link href='http://creativecommons.org/publicdomain/zero/1.0/' rel='license'>", "CC0-1.0"),
        (b"<a href='https://creativecommons.org/licenses/by/4.0/'>not said of this page</a>", ""),
        (b'<a rel="license" href="/terms">', "/terms"),
        (b'<a rel="license">', ""),
    ],
)
def test_pages_that_state_their_licence(page, expected):
    assert licences.of_page(b"<html>" + page + b"</html>") == expected

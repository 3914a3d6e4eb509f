"""A tree of source code to records: a file is a document, with its language and its licence."""

from collections.abc import Iterator, Sequence

from data_engine import code_files, licences
from data_engine.charset import decode
from data_engine.listing import SourceFile
from data_engine.read_files import is_binary, load
from data_engine.records import Damage, Record, Skips


def read(
    files: Sequence[SourceFile], licence_files: Sequence[SourceFile], max_bytes: int, skips: Skips
) -> Iterator[Record | Damage]:
    """A record for each file of source code; vendored, generated and binary files, and those of no known language, are
    counted in `skips`. licence_files: those of the folders above `files`."""
    by_folder = _licences_of_folders(licence_files, max_bytes)
    for file in files:
        name = file.path.rpartition("/")[2]
        path_in_tree = file.path.removeprefix(file.root).lstrip("/")
        if code_files.is_vendored(path_in_tree):
            skips.add("vendored file")
            continue
        if code_files.is_generated_name(name):
            skips.add("generated file")
            continue
        payload = load(file, max_bytes)
        if isinstance(payload, Damage):
            yield payload
        elif is_binary(payload):
            skips.add("binary file")
        else:
            text = decode(payload, html=False)
            language = code_files.language_of(name, text)
            if not language:
                skips.add("file of no known programming language")
            elif code_files.is_generated(text, language):
                skips.add("generated file")
            else:
                licence = licences.of_source_file(text) or _nearest(file, by_folder)
                declared = code_files.LANGUAGE_PREFIX + language
                yield Record(file.path, 0, file.url, "", payload, "text", language=declared, licence=licence)


def _licences_of_folders(licence_files: Sequence[SourceFile], max_bytes: int) -> dict[str, str]:
    texts: dict[str, dict[str, str]] = {}
    for file in licence_files:
        payload = load(file, max_bytes)
        if not isinstance(payload, Damage):
            folder, _, name = file.path.rpartition("/")
            texts.setdefault(folder, {})[name] = decode(payload, html=False)
    return {folder: licences.of_folder(by_name) for folder, by_name in texts.items()}


def _nearest(file: SourceFile, by_folder: dict[str, str]) -> str:
    above = licences.folders_above(file.path, file.root)
    return next((by_folder[folder] for folder in above if folder in by_folder), "")

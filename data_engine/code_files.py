"""Which files of a source tree are somebody's own source code, and in which language. Names and bytes in, no I/O."""

import re
from functools import cache
from typing import Any

LANGUAGE_PREFIX = "code-"
"""Before the language of source code: `code-python`. Bare names would be taken for natural languages (`io` is Ido)."""

# Folders of other people's code or of build output, as in vendor.yml of github-linguist.
VENDORED = frozenset(
    {
        *("node_modules", "bower_components", "jspm_packages", "site-packages", "dist-packages", "vendor", "vendors"),
        *("third_party", "third-party", "thirdparty", "3rdparty", "external", "externals", "extern", "deps"),
        *("Godeps", "Carthage", "Pods", "dist"),
    }
)

# Files that a tool writes, as in generated.rb of github-linguist.
_GENERATED_NAMES = re.compile(
    r"(?:package-lock\.json|npm-shrinkwrap\.json|yarn\.lock|pnpm-lock\.yaml|cargo\.lock|poetry\.lock|pipfile\.lock"
    r"|composer\.lock|gemfile\.lock|flake\.lock|uv\.lock|pdm\.lock|go\.sum|mix\.lock"
    r"|.*[.-]min\.(?:js|css)|.*\.(?:js|css)\.map|.*_pb2(?:_grpc)?\.pyi?|.*\.pb\.(?:go|cc|h)"
    r"|.*\.g\.dart|.*\.designer\.cs|.*\.generated\.\w+)",
    re.IGNORECASE,
)
_GENERATED_HEAD = re.compile(
    r"@generated\b|\bgenerated\b[\s\S]{0,160}?\bdo not (?:edit|modify)\b"
    r"|\bdo not (?:edit|modify)\b[\s\S]{0,160}?\bgenerated\b",
    re.IGNORECASE,
)
_HEAD = 2048
_MINIFIED_LANGUAGES = frozenset({"javascript", "css", "typescript"})
_MINIFIED_LINE = 110
"""Mean characters of a line: generated.rb's minified_files?."""

_SHEBANG = re.compile(r"#!\s*\S*?(?:\benv\s+(?:-\S+\s+)*)?([\w+.-]+)(?:\s|$)")
_INTERPRETERS = {"node": "javascript", "nodejs": "javascript", "deno": "typescript", "rscript": "r", "dash": "bash"}

# Endings that several languages share, where pygments would take the first by name. The first pattern found decides.
_SHARED: dict[str, tuple[tuple[str, str], ...]] = {
    ".h": (
        (r"^\s*(?:@interface|@protocol|#import)\b", "objective-c"),
        (r"^\s*(?:class|namespace|template|using)\b|\bstd::|^\s*(?:public|private|protected):", "cpp"),
        ("", "c"),
    ),
    ".m": ((r"^\s*(?:@interface|@implementation|@import|#import)\b", "objective-c"), ("", "matlab")),
    ".pl": ((r"^\s*:-|^[a-z]\w*\(.*\)\s*:-", "prolog"), ("", "perl")),
    ".r": (("", "r"),),
    ".sql": (("", "sql"),),
    ".v": ((r"^\s*(?:Theorem|Lemma|Require|Proof)\b", "coq"), ("", "verilog")),
}
_PROSE = frozenset({"text", "output"})


def is_vendored(path_in_tree: str) -> bool:
    """Whether a file lies below a folder of other people's code or of build output."""
    return not VENDORED.isdisjoint(path_in_tree.split("/")[:-1])


def is_generated_name(name: str) -> bool:
    """Whether a file of this name is written by a tool."""
    return _GENERATED_NAMES.fullmatch(name) is not None


def is_generated(text: str, language: str) -> bool:
    """Whether the head of a file says that a tool wrote it, or its lines are as long as only minifiers make them."""
    if _GENERATED_HEAD.search(text[:_HEAD]) is not None:
        return True
    return language in _MINIFIED_LANGUAGES and len(text) > _MINIFIED_LINE * (text.count("\n") + 1)


def language_of(name: str, text: str) -> str:
    """The language by file name, then by shebang: pygments' first alias (`python`, `cpp`). Empty when there is none."""
    head = text[:_HEAD]
    for ending, choices in _SHARED.items():
        if name.lower().endswith(ending):
            return next(language for pattern, language in choices if re.search(pattern, head, re.MULTILINE))
    from pygments.lexers import find_lexer_class_for_filename

    lexer = find_lexer_class_for_filename(name, head)
    language = str(lexer.aliases[0]) if lexer is not None and lexer.aliases else _by_shebang(head)
    return "" if language in _PROSE else language


def _by_shebang(head: str) -> str:
    found = _SHEBANG.match(head)
    if found is None:
        return ""
    interpreter = re.sub(r"[\d.]+$", "", found.group(1)).lower()
    lexer = _lexer_named(_INTERPRETERS.get(interpreter, interpreter))
    return str(lexer.aliases[0]) if lexer is not None else ""


@cache
def _lexer_named(alias: str) -> Any:
    from pygments.lexers import find_lexer_class_by_name
    from pygments.util import ClassNotFound

    try:
        return find_lexer_class_by_name(alias)
    except ClassNotFound:
        return None

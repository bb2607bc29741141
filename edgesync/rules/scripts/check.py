"""Checks of a script before it runs.   [sans-IO]"""

from typing import Final

from edgesync.rules.scripts.lexer import NotUnderstood, Token, tokens
from edgesync.rules.scripts.script import ScriptSource

# Words that stand before a bracket and are no calls.
WORDS: Final = frozenset(
    {"if", "for", "foreach", "while", "switch", "catch", "return", "typeof", "function", "in",
     "of", "void", "delete", "throw", "new", "else", "do", "case", "with"}
)  # fmt: skip
GLOBALS: Final = frozenset(
    {"Array", "Boolean", "Date", "Error", "Function", "JSON", "Map", "Math", "Number", "Object",
     "RangeError", "RegExp", "Set", "String", "Symbol", "TypeError", "decodeURI",
     "decodeURIComponent", "encodeURI", "encodeURIComponent", "escape", "eval", "isFinite",
     "isNaN", "parseFloat", "parseInt", "unescape", "BigInt", "Uint8Array", "ArrayBuffer",
     "DataView", "Float32Array", "Float64Array", "Int8Array", "Int16Array", "Int32Array",
     "Uint16Array", "Uint32Array", "WeakMap", "Promise", "Reflect", "Proxy"}
)  # fmt: skip
TBEL_GLOBALS: Final = frozenset(
    {"parseLong", "parseDouble", "toInt", "toFixed", "isMap", "isList", "raiseError",
     "stringToBytes", "bytesToString", "hexToBytes", "bytesToHex", "parseHexToInt",
     "parseBytesToInt", "base64ToBytes", "bytesToBase64", "base64ToHex", "decodeToString",
     "decodeToJson", "parseHexToFloat", "parseBytesToFloat", "intToHex", "isNull"}
)  # fmt: skip


def unknown_calls(source: ScriptSource) -> list[str]:
    """Return names that a script calls and that nobody has: a helper of elsewhere, or a slip."""
    try:
        found = tokens(source.body)
    except NotUnderstood:
        return []  # regular expressions and the like: QuickJS will say what is wrong
    known = {*source.names, *WORDS, *GLOBALS, *_declared(found)}
    if source.language == "TBEL":
        known |= TBEL_GLOBALS
    unknown: dict[str, None] = {}
    for at, token in enumerate(found[:-1]):
        is_call = token.kind == "name" and found[at + 1].text == "(" and token.text not in known
        if is_call and (at == 0 or found[at - 1].text not in (".", "?.")):
            unknown[token.text] = None
    return list(unknown)


def _declared(found: list[Token]) -> set[str]:
    """Return every name that is declared or assigned somewhere, whatever its scope."""
    names: set[str] = set()
    for at, token in enumerate(found[:-1]):
        if token.kind != "name":
            continue
        before = found[at - 1].text if at else ""
        after = found[at + 1].text
        if before in ("function", "var", "let", "const", "def", ",", "(") or after in ("=", "=>"):
            names |= {token.text} if after != "(" or before in ("function", "def") else set()
    return names

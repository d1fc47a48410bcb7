"""Secrets out of text: by the name that they bear, by how they look, and by their value in every spelling.

What is not known by name, look or value cannot be found: a bare password in the middle of a sentence, say.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "[redacted]"
SHORTEST = 6  # characters; a shorter value stands in too many innocent words to be looked for
_LEARNT = 8  # characters; what a configuration calls a secret is looked for elsewhere from this length on
_WORD = 16  # characters; so long a word of a file of keys, or line of a secret, is one itself
_DEEPEST = 2  # Base64 within Base64
_OPENING = re.compile(r"\\*[\"']")
_WORD_OF_VALUE = re.compile(r"[^\s\"'&;]*")
_LONGEST = 4000  # characters between two quotes
_STEMS = ("secret", "passw", "passphrase", "credential", "authorization", "cookie", "apikey", "privatekey")
_LAST = {"token", "key", "pass", "pwd", "auth", "serial"}  # as a name's last word
_SERIAL = {"serial_number", "serialnumber"}  # a machine's, never collected
_KEYS = {"api", "gateway", "access", "private", "secret", "auth"}  # before "keys": not a mapping's keys
_PLAIN = {"eos", "bos", "pad", "unk", "cls", "sep", "mask", "stop", "first", "max", "per", "each", "public"}

# How secrets look: a word that such a text holds, in small letters, and the whole. A group `keep` stays.
_SHAPES = [
    (word, re.compile(pattern))
    for word, pattern in (
        (
            "private key",
            r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)",
        ),
        ("$ansible_vault", r"\$ANSIBLE_VAULT;[^\n]*(?:\n\s*[0-9a-f]{2,80}(?=\s|$))*"),
        ("_", r"\b(?:hf|api_org|gh[pousr]|github_pat)_[A-Za-z0-9_]{8,}"),
        ("-", r"\b(?:nvapi|glpat|xox[abposr]|sk|pk|rk)-[A-Za-z0-9_-]{12,}"),
        ("sia", r"\bASIA[A-Z0-9]{16}\b"),
        ("akia", r"\bAKIA[A-Z0-9]{16}\b"),
        ("eyj", r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
        ("$", r"\$(?:1|2[abxy]|5|6|y|argon2id?)\$[^\s:\"']{8,}"),
        ("bearer", r"(?i)(?P<keep>\bBearer\s+)(?!\[redacted\])[A-Za-z0-9+/._~=-]{6,}"),
        ("basic", r"(?P<keep>\bBasic\s+)(?!\[redacted\])[A-Za-z0-9+/._~=-]{12,}"),
        ("@", r"(?P<keep>\b[A-Za-z][A-Za-z0-9+.-]*:\\?/\\?/)(?!\[redacted\])[^\s/@\"'<>]+(?=@)"),
        ("passw", r"(?i)(?P<keep>\bpassw(?:or)?d\s+)(?!\[redacted\]|is\b|was\b|[=:])[^\s\"']+"),
        ("passphrase", r"(?i)(?P<keep>\bpassphrase\s+)(?!\[redacted\]|is\b|was\b|[=:])[^\s\"']+"),
        ("passw", r"(?i)(?P<keep>\bpassword\s+(?:is|was)\s+)(?!\[redacted\])[^\s\"']+"),
        ("token", r"(?i)(?P<keep>\btoken\s+(?:is|was)\s+)(?!\[redacted\])[^\s\"']+"),
        ("secret", r"(?i)(?P<keep>\bsecret\s+(?:is|was)\s+)(?!\[redacted\])[^\s\"']+"),
        ("auth ", r"(?i)(?P<keep>\bauth\s+[^\s:\"']+:)[^\s\"']+"),
    )
]
_TAIL_OF_KEY = re.compile(r"(?s)^.*?-----END [A-Z0-9 ]*PRIVATE KEY-----")  # its beginning was cut off
_KEY_LINE = re.compile(r"[A-Za-z0-9+/=]{32,}")
_FLAG = re.compile(
    r"--(?P<name>[\w-]+)(?P<gap>(?:\\*[\"'])?,?\s+(?:-\s+)?(?:\\*[\"'])?)(?P<value>[^\s\"'\\,-][^\s\"'\\,]*)"
)
_STEM = re.compile(r"(?i)token|key|pass|pwd|secret|credential|auth|cookie|serial")
_REST = re.compile(
    r"(?i)(?P<rest>[a-z0-9_.-]{0,64}(?: number)?)"
    r"(?P<sep>\\*[\"']?[ \t]{0,40}(?::(?!//)|=)[ \t]{0,40})"
)
_OF_NAMES = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{64,76}\n)+[A-Za-z0-9+/]*={0,2}|[A-Za-z0-9+/_-]{12,}={0,2}")


def says_secret(name: str) -> bool:
    """Whether what bears this name is a secret: HF_TOKEN, apiKey, api-key; not max_tokens, eos_token."""
    lower = re.sub(r"[\s.-]", "_", name.lower()).strip("_")
    if any(stem in lower for stem in _STEMS) or any(lower.endswith(serial) for serial in _SERIAL):
        return True
    words = [w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)]
    if not words or (len(words) > 1 and words[-2] in _PLAIN):
        return False
    if words[-1] == "keys":
        return len(words) > 1 and words[-2] in _KEYS
    return words[-1] in _LAST or (name.isupper() and bool(_LAST & set(words)))


def named_values(data: Any, secret: bool = False) -> Iterator[Any]:
    """The leaves of nested dicts and lists that lie under a name that says secret."""
    if isinstance(data, dict):
        for name, value in data.items():
            yield from named_values(value, secret or says_secret(str(name)))
    elif isinstance(data, list | tuple):
        for value in data:
            yield from named_values(value, secret)
    elif secret:
        yield data


def spellings(value: str) -> set[str]:
    """How a value may stand in a text: as it is, escaped for JSON, URL, HTML, shell; in hex and Base64."""
    once = {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1]}
    forms = {value, *once, *(json.dumps(form)[1:-1] for form in once), html.escape(value), shlex.quote(value)}
    forms |= {quote(value, safe=""), quote(value), quote_plus(value), value.replace("'", "''")}
    raw = value.encode()
    forms |= {raw.hex(), raw.hex().upper()}
    for shift in range(3):  # where in a triple of bytes it begins
        text = base64.b64encode(b"\0" * shift + raw).decode()
        core = text[(0, 2, 3)[shift] : len(text.rstrip("=")) - bool((shift + len(raw)) % 3)]
        forms |= {core, core.replace("+", "-").replace("/", "_")}
    return {form for form in forms if len(form) >= SHORTEST}


def _closing(text: str, start: int, mark: str) -> int:
    """Where a quoted value ends: at `mark`, with as many backslashes as its opening had."""
    end = text.find(mark, start, start + _LONGEST)
    while end >= 0:
        slashes = 0
        while text[end - slashes - 1] == "\\":
            slashes += 1
        if slashes == 0 or (len(mark) == 1 and slashes % 2 == 0):
            return end
        end = text.find(mark, end + 1, start + _LONGEST)
    return _line_end(text, start)


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def _deeper(text: str, name_at: int, end: int) -> int:
    """The end of the lines after `end` that are indented deeper than the name's line."""
    line = text[text.rfind("\n", 0, name_at) + 1 : name_at]
    indent = len(line) - len(line.lstrip(" "))
    while end < len(text):
        after = _line_end(text, end + 1)
        following = text[end + 1 : after]
        if not following.strip() or len(following) - len(following.lstrip(" ")) <= indent:
            break
        end = after
    return end


def _value(text: str, name_at: int, sep: str, start: int) -> tuple[int, int]:
    """Begin and end of the value after a name and its separator."""
    before = text[name_at - 1 : name_at]
    if opening := _OPENING.match(text, start):
        return opening.end(), _closing(text, opening.end(), opening[0])
    if before and before in "\"'" and sep[0] not in "\\\"'":  # "NAME=value of words"
        return start, _closing(text, start, before)
    if text[start : start + 1] in ("[", "{") and text[start : start + len(MASK)] != MASK:
        close = text.find({"[": "]", "{": "}"}[text[start]], start)
        return start, close + 1 if close >= 0 else _line_end(text, start)
    end = _line_end(text, start)
    if re.fullmatch(r"[|>]?[+-]?\d?\s*", text[start:end]):  # YAML: a block, or a mapping
        return start, _deeper(text, name_at, end)
    if ":" in sep or not before or before == "\n" or text[name_at - 7 : name_at] == "export ":
        return start, end
    word = _WORD_OF_VALUE.match(text, start)
    return start, word.end() if word else start


def _named(text: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each value that follows a name that says secret."""
    at = 0
    for stem in _STEM.finditer(text):
        if stem.start() < at or not (rest := _REST.match(text, stem.start())):
            continue
        name_at = stem.start()
        while name_at > max(at, stem.start() - 64) and text[name_at - 1] in _OF_NAMES:
            name_at -= 1
        if says_secret(text[name_at : rest.end("rest")]):
            start, end = _value(text, name_at, rest["sep"], rest.end())
            if text[start:end].strip() not in ("", MASK, "null", "true", "false", '""', "''"):
                yield start, end
            at = max(at, end)


class Redactor:
    """Knows secrets by value, and takes them and their like out of texts."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._forms: dict[str, set[str]] = {}  # value -> its spellings
        self._sorted: list[str] | None = None
        for value in known:
            self.learn(value)

    @property
    def known(self) -> int:
        """How many values it looks for."""
        return len(self._forms)

    def learn(self, value: str, shortest: int = SHORTEST) -> None:
        """A secret; of one with several lines, each that is long, too."""
        value = value.strip()
        lines = [line.strip() for line in value.splitlines()] if "\n" in value else []
        if len(value) >= shortest and MASK not in value and not value.startswith(("{{", "${")):
            self._add(value, spellings(value))
        for line in lines:
            if len(line) >= _WORD and "-----" not in line:
                self._add(line, spellings(line))

    def _add(self, value: str, forms: set[str]) -> None:
        if value not in self._forms:
            self._forms[value], self._sorted = forms, None

    def learn_words(self, text: str) -> None:
        """Every long word of a file that holds nothing but secrets."""
        for word in re.findall(r"[^\s\"',:;{}\[\]]+", text):
            if len(word) >= _WORD:
                self._add(word, {word})

    def learn_from(self, text: str) -> None:
        """What a configuration calls a secret."""
        for start, end in _named(text):
            for line in text[start:end].splitlines():  # of a block or a mapping, each has a value
                for value in (line, *re.split(r":\s+|=", line, maxsplit=1)[1:]):
                    self.learn(value.strip("\"' ,[]{}"), _LEARNT)
        try:
            data = json.loads(text)
        except ValueError:
            data = None
        for leaf in named_values(data):
            self.learn(str(leaf), _LEARNT)
        for match in _FLAG.finditer(text):
            if says_secret(match["name"]):
                self.learn(match["value"], _LEARNT)

    def clean(self, text: str, depth: int = 0) -> tuple[str, int]:
        """The text without secrets, and how many were taken out."""
        text, count = self._without_known(text)
        cut = _TAIL_OF_KEY.match(text)
        if cut and "-----BEGIN" not in cut[0]:
            text, count = _KEY_LINE.sub(MASK, cut[0]) + text[cut.end() :], count + 1
        lower = text.lower()
        for shape in (shape for word, shape in _SHAPES if word in lower):
            text, found = shape.subn(rf"\g<keep>{MASK}" if "keep" in shape.groupindex else MASK, text)
            count += found
        count += sum(says_secret(match["name"]) for match in _FLAG.finditer(text))
        text = _FLAG.sub(_flag, text)
        pieces: list[str] = []
        at = 0
        for start, end in _named(text):
            pieces += [text[at:start], MASK]
            at, count = end, count + 1
        text = "".join([*pieces, text[at:]])
        return self._decoded(text, count, depth) if depth < _DEEPEST else (text, count)

    def clean_known(self, text: str) -> str:
        """The text without the values that are known; its form (JSON, a path) stays."""
        return self._without_known(text)[0]

    def _without_known(self, text: str) -> tuple[str, int]:
        count = 0
        for form in self._longest_first():
            if form in text:
                count += text.count(form)
                text = text.replace(form, MASK)
        return text, count

    def _longest_first(self) -> list[str]:
        if self._sorted is None:
            self._sorted = sorted({f for forms in self._forms.values() for f in forms}, key=len, reverse=True)
        return self._sorted

    def _decoded(self, text: str, count: int, depth: int) -> tuple[str, int]:
        """The same for what Base64 hides."""
        found = 0

        def look(match: re.Match[str]) -> str:
            nonlocal found
            inner = _from_base64(match[0])
            if inner and self.clean(inner, depth + 1)[1]:
                found += 1
                return MASK
            return match[0]

        text = _BASE64.sub(look, text)
        return text, count + found

    def found(self, text: str) -> int:
        """How many of the known values stand in the text, in any spelling."""
        return sum(any(form in text for form in forms) for forms in self._forms.values())


def _flag(match: re.Match[str]) -> str:
    return f"--{match['name']}{match['gap']}{MASK}" if says_secret(match["name"]) else match[0]


def _from_base64(text: str) -> str:
    """What a run of letters says in Base64; empty when that is no text."""
    compact = text.replace("\n", "").rstrip("=").replace("-", "+").replace("_", "/")
    try:
        inner = base64.b64decode(compact + "=" * (-len(compact) % 4)).decode("utf-8")
    except (binascii.Error, ValueError):
        return ""
    return inner if all(c.isprintable() or c in "\r\n\t" for c in inner) else ""

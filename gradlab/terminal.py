"""Makes text from files, names and attributes safe to print on a terminal."""

from __future__ import annotations

import numbers
import unicodedata

# they reorder the surrounding text, so that a name can look like another
_DIRECTION = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)}


def counted(number: object, noun: str) -> str:
    """A number with its noun: 1 latent, 2,048 latents. Other values are not formatted."""
    told = f"{int(number):,}" if isinstance(number, numbers.Integral) else str(number)
    return f"{told} {noun}{'' if told == '1' else 's'}"


def visible(text: str) -> str:
    """The text with control characters and invalid bytes written as \\x1b. Line breaks are kept."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c == "\n" or not _acts(c) else _written_out(c) for c in text)


def encodable(text: str) -> str:
    """The text with invalid bytes of file names (surrogates) written as \\xff."""
    return "".join(_written_out(c) if "\ud800" <= c <= "\udfff" else c for c in text)


def _acts(c: str) -> bool:
    return unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in _DIRECTION


def _written_out(c: str) -> str:
    if "\udc80" <= c <= "\udcff":
        return f"\\x{ord(c) - 0xDC00:02x}"
    return c.encode("unicode_escape", "surrogatepass").decode()

"""Fonts: those that come with matplotlib, and for other scripts what the computer has installed."""

from functools import cache

# These come with matplotlib.
SANS = "DejaVu Sans"
SERIF = "STIXGeneral"
MONO = "DejaVu Sans Mono"

# Fallback fonts for Chinese, Japanese, Korean, Indic and Arabic scripts on Linux, Windows and
# macOS; matplotlib tries the installed ones in this order.
OTHER_SCRIPTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "PingFang SC",
    "PingFang HK",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Noto Sans Devanagari",
    "Nirmala UI",
    "Kohinoor Devanagari",
    "Noto Sans Arabic",
    "Segoe UI",
    "Geeza Pro",
    "Arial Unicode MS",
)


@cache
def with_fallbacks(font: str) -> list[str]:
    """A font, and after it the installed ones for other scripts: a family, as matplotlib has it."""
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    others = [name for name in (SANS, *OTHER_SCRIPTS) if name in installed and name != font]
    return [font, *others]


@cache
def glyphs(font: str) -> frozenset[int]:
    """The characters that a font, or else one of its fallbacks, can draw, as code points."""
    from matplotlib import font_manager, ft2font

    found: set[int] = set()
    for name in with_fallbacks(font):
        found.update(ft2font.FT2Font(font_manager.findfont(name)).get_charmap())
    return frozenset(found)

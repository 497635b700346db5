"""Is it good, is it original, and what happens inside?"""

from slm.analysis.attention import attention_maps
from slm.analysis.ngram import NGram
from slm.analysis.openings import OPENINGS, Opening
from slm.analysis.originality import Copy, distinct, longest_copies, repetition
from slm.analysis.report import story_report
from slm.analysis.sizes import size_table

__all__ = [
    "OPENINGS",
    "Copy",
    "NGram",
    "Opening",
    "attention_maps",
    "distinct",
    "longest_copies",
    "repetition",
    "size_table",
    "story_report",
]

"""Where stories of one's own are given: pasted, uploaded, or those that come with the package."""

import re

import streamlit as st

from slm.page.markdown import literal
from slm.stories.cleaning import END, SHORTEST, clean_stories
from slm.stories.files import KINDS, parse_stories, read_stories

BOX = "Paste your stories here"
# What may separate pasted stories, in words; the first that occurs in a text separates its stories.
_SEPARATORS = {
    "a line of ---": re.compile(
        rf"^[^\S\n]*(?:([-*_=])(?:[^\S\n]*\1){{2,}}|{re.escape(END)})[^\S\n]*$", re.MULTILINE
    ),
    "two blank lines": re.compile(r"\n(?:[^\S\n]*\n){2,}"),
    "a blank line": re.compile(r"\n[^\S\n]*\n"),
}


def stories_input() -> list[str]:
    """Let stories be given; their texts. What was found is said below each box."""
    stories = _pasted_stories() + _uploaded_stories()
    if st.checkbox("or try it with the tales of a lighthouse robot", key="tales"):
        tales = read_stories("lighthouse")
        st.caption(f"{_count(tales)}.")
        stories += tales
    return stories


def _pasted_stories() -> list[str]:
    text = st.text_area(
        BOX, key="pasted", height=120, placeholder="One story\n\nAnother story, after a blank line"
    )
    stories, separator = split_pasted(text)
    st.caption(_found(stories, separator))
    return stories


def split_pasted(text: str) -> tuple[list[str], str]:
    """The stories of a text that was pasted, and what separates them, in words; nothing where it
    has not more than one."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    for name, separator in _SEPARATORS.items():
        if separator.search(text):
            text = separator.sub("\0", text)
            return [story for story in text.split("\0") if story.strip()], name
    return ([text] if text else []), ""


def _found(stories: list[str], separator: str) -> str:
    """What was found in the text that was pasted, and how it can be separated otherwise."""
    if not stories:
        return "A blank line, or a line of ---, separates stories."
    if not separator:
        return f"{_count(stories)} found. Put a blank line, or a line of ---, between two stories."
    found = f"{_count(stories)} found, separated by {separator}."
    if separator == "a blank line":
        found += " Have they blank lines within them? Then put a line of --- between stories."
    return found


def _uploaded_stories() -> list[str]:
    kinds = [kind.removeprefix(".") for kind in KINDS]
    files = st.file_uploader("or upload files", kinds, accept_multiple_files=True, key="files")
    stories = []
    names_before = []
    for file in files or []:
        names_before.append(file.name)
        number = names_before.count(file.name)
        name = file.name if number == 1 else f"{file.name} (number {number} of this name)"
        try:
            found, count = _parse(file.name, file.getvalue())
        except ValueError as error:
            st.error(literal(str(error).replace(file.name, name)))
            continue
        st.caption(f"{literal(name)}: {count}")
        stories += found
    return stories


@st.cache_data(max_entries=50, show_spinner=False)
def _parse(name: str, content: bytes) -> tuple[list[str], str]:
    """The stories of an uploaded file, and how many there are, in words. Raises ValueError, naming
    the file."""
    stories = parse_stories(name, content)
    return stories, _count(stories)


def _count(stories: list[str]) -> str:
    """How many stories there are to learn from, and how many more are left out."""
    _, cleaning = clean_stories(story for story in stories if story.strip())
    kept = cleaning.stories_kept
    count = "1 story" if kept == 1 else f"{kept:,} stories"
    left_out = []
    if cleaning.fragments_dropped:
        left_out.append(f"{cleaning.fragments_dropped:,} with fewer than {SHORTEST} letters")
    if cleaning.duplicates_dropped:
        left_out.append(f"{cleaning.duplicates_dropped:,} that came before")
    return f"{count} (and, left out, {' and '.join(left_out)})" if left_out else count

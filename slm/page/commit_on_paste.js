// Streamlit hands on what is in a text box once the box is left. What is pasted is handed on at
// once, so that the page can say what it found in it: the box is left, and entered again.

export default function ({ data, parentElement }) {
  const onPaste = ({ target }) => {
    if (target.ariaLabel !== data.label) return;
    setTimeout(() => { // when the text is in the box
      target.blur();
      target.focus();
    });
  };
  // It is called again whenever the page is drawn anew: only the latest call's listener stays. The
  // one before may still be about to be cleaned up, so it must not stand in for this one.
  parentElement.stopListening?.();
  document.addEventListener("paste", onPaste);
  parentElement.stopListening = () => document.removeEventListener("paste", onPaste);
  return parentElement.stopListening;
}

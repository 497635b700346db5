// Streamlit hands on what is in a text box once the box is left. What is pasted is handed on at
// once, so that the page can say what it found in it: the box is left, and entered again.

export default function ({ data, parentElement }) {
  if (parentElement.isListening) return; // it is called again whenever the page is drawn anew
  parentElement.isListening = true;
  const onPaste = ({ target }) => {
    if (target.ariaLabel !== data.label) return;
    setTimeout(() => { // when the text is in the box
      target.blur();
      target.focus();
    });
  };
  document.addEventListener("paste", onPaste);
  return () => document.removeEventListener("paste", onPaste);
}

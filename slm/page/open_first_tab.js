// Opens the first tab each time that the page asks for it: when the count is higher than before.

export default function ({ data, parentElement }) {
  const isAskedFor = data.times > (parentElement.times ?? 0);
  parentElement.times = data.times;
  if (isAskedFor) document.querySelector("[role=tab]").click();
}

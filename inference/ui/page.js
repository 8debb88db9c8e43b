// Runs before Gradio, which takes the browser's language: the visitor's choice is put in its place.
(() => {
  const NAME = "halve_ui_language";
  const chosen = (document.cookie.match(new RegExp(`(?:^|; )${NAME}=(en|zh)`)) || [])[1];
  const language = chosen || (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
  const locale = language === "zh" ? "zh-CN" : "en";
  const choose = (one) => { document.cookie = `${NAME}=${one}; path=/ui; max-age=31536000; samesite=lax`; };
  choose(language);
  Object.defineProperty(navigator, "language", { get: () => locale });
  Object.defineProperty(navigator, "languages", { get: () => [locale] });
  document.documentElement.lang = locale;
  document.documentElement.dataset.halve = language;

  // a box and its line light up together
  const lit = (event, on) => {
    const one = event.target.closest?.("[data-line]");
    const page = one?.closest(".halve-page");
    page?.querySelectorAll(`[data-line="${one.dataset.line}"]`).forEach((each) => each.classList.toggle("lit", on));
  };
  for (const [name, on] of [["mouseover", true], ["focusin", true], ["mouseout", false], ["focusout", false]]) {
    document.addEventListener(name, (event) => lit(event, on));
  }

  // outside a secure context there is no clipboard to write to but by a selection
  const copy = (text) => {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    return Promise.resolve();
  };
  document.addEventListener("click", async (event) => {
    const tongue = event.target.closest?.("[data-language]");
    if (tongue) {
      choose(tongue.dataset.language);
      location.reload();
    }
    const button = event.target.closest?.(".halve-copy");
    if (button) {
      const lines = button.closest(".halve-found").querySelectorAll("li[data-line]:not([hidden]) .halve-text");
      await copy([...lines].map((line) => line.textContent).join("\n"));
      button.textContent = button.dataset.copied;
    }
  });

  window.halve = {
    show(least) {
      document.querySelectorAll(".halve-page [data-score]").forEach((one) => {
        one.toggleAttribute("hidden", Number(one.dataset.score) < least);
      });
    },
  };
})();

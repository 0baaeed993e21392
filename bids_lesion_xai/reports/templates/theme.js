"use strict";
// Light or dark as the system has it, or as the reader chose. Where storage is forbidden, as it may
// be for a file, the choice holds for this page alone.
{
  const store = (action) => { try { return action(window.localStorage); } catch { return null; } };
  const root = document.documentElement;
  const chosen = store((storage) => storage.getItem("theme"));
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
  const isDark = () => root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const say = () => button.setAttribute("aria-pressed", String(isDark()));
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      store((storage) => storage.setItem("theme", root.dataset.theme));
      say();
    });
    say();
  });
}

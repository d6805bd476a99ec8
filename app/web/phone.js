// On a phone the strip sits above the keyboard, which covers the lower part of the page.

const { visualViewport } = window;

function lift() {
	const covered = Math.max(0, innerHeight - visualViewport.height - visualViewport.offsetTop);
	document.documentElement.style.setProperty("--keyboard", `${covered}px`);
}

visualViewport?.addEventListener("resize", lift);
visualViewport?.addEventListener("scroll", lift);

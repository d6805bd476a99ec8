// On a phone the strip sits above the keyboard, which covers the lower part of the page.

function lift() {
	const covered = Math.max(0, innerHeight - visualViewport.height - visualViewport.offsetTop);
	document.documentElement.style.setProperty("--keyboard", `${covered}px`);
}

for (const change of ["resize", "scroll"]) visualViewport.addEventListener(change, lift);

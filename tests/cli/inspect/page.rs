//! The page of `inspect --html` in a browser.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::scene::Scene;
use crate::support::browser::Browser;
use crate::support::stage::{BOTH_USERS, Who, finish};

impl Scene {
    /// Writes the page and opens it.
    fn page(&self) -> Browser {
        let page = self.write(Who::Unprivileged, "page.html");
        let profile = self.stage.path("profile");
        fs::create_dir(&profile).unwrap();
        let mut browser = Browser::start(&profile);
        browser.open(&format!("file://{}", page.display()));
        browser.until("document.documentElement.dataset.ready > 0");
        browser
    }

    fn write(&self, who: Who, name: &str) -> PathBuf {
        let page = self.stage.out(who).join(name);
        let mut command = self.stage.overcoat(who);
        command.current_dir(self.stage.path(""));
        command.args(["inspect", "base.squashfs", "over.cpio.gz", "--html"]).arg(&page);
        finish(&mut command).ok();
        page
    }
}

/// Expression for the paths in the visible part of the table.
const PATHS: &str = "[...document.querySelectorAll('#rows .at-path')].map((cell) => cell.title)";

/// Expression for texts with less contrast than WCAG 2.2 requires (1.4.3, level AA).
const FAINT: &str = r#"(() => {
  const parts = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (parts(colour)[3] !== 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.offsetParent || element.closest(".hidden, .skip, script")) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(`${element.className || element.tagName} ${element.textContent.slice(0, 20)} ${ratio.toFixed(2)}`);
  }
  return [...new Set(faint)].slice(0, 20);
})()"#;

#[test]
fn page_agrees_with_a_kernel_mount_of_the_layers() {
    let scene = Scene::new();
    let merged = scene.mounted();
    let mut browser = scene.page();
    let count = |script: &str| scene.stage.sh(script).trim().parse::<u64>().unwrap();
    // Each inode is counted once.
    let sum = "sort -u | awk '{ sum += $2 } END { printf \"%d\", sum }'";
    let root = count(&format!("find {} -type f -printf '%i %s\\n' | {sum}", merged.display()));
    let own = count(&format!("find o -type f -printf '%i %s\\n' | {sum}"));
    let kilobytes = |bytes: u64| format!("{:.1} kB", bytes as f64 / 1e3).replace(".0 kB", ".0 kB");
    let weights = browser.value(
        "(() => { const own = [0, 0]; for (let row = 0; row < COUNT; row++) own[LAYER[row]] += \
         bytesAfter(row); return own; })()",
    );
    assert_eq!(weights[1], own, "{}", kilobytes(own));
    assert_eq!(weights[0].as_u64().unwrap() + own, root);
    assert_eq!(browser.text("#total-overlays"), format!("{} kB", own / 1000));
    let added = count(
        "cd o && find . -mindepth 1 ! -type c -print0 | \
         xargs -0 -n 1 sh -c 'test -e \"../b/$0\" || echo' | wc -l",
    );
    assert_eq!(browser.text("#total-added"), added.to_string());
    assert_eq!(browser.text("#total-changed"), "3");
    assert_eq!(browser.text("#total-deleted"), "4");
    assert!(browser.text("h1").contains("over.cpio.gz on base.squashfs"));
    // The digests are those of the files.
    for image in [&scene.base, &scene.overlay] {
        let digest = scene.stage.sh(&format!("sha256sum <{} | cut -c-64", image.display()));
        let shown = browser.value(&format!(
            "[...document.querySelectorAll('.digest')].some((code) => code.title === {:?})",
            digest.trim()
        ));
        assert_eq!(shown, true, "{digest}");
    }
    // A finding is shown with its fix, and links to the file.
    assert!(browser.text("#found").contains("/etc/mode"), "{}", browser.text("#found"));
    assert!(browser.text("#found").contains("Fix:"));
    browser.value("[...document.querySelectorAll('.where')].find((where) => where.innerText === '/etc/mode').click()");
    let details = browser.text("#about");
    for part in ["changed: mode", "-rwsr-xr-x", "-rwxr-xr-x", "safe/setuid"] {
        assert!(details.contains(part), "{part}: {details}");
    }
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn page_can_be_used_with_the_keyboard() {
    let scene = Scene::new();
    let mut browser = scene.page();
    // Search.
    browser.press("/");
    browser.type_in("hostile");
    browser.until("document.getElementById('count').innerText.startsWith('10 of')");
    browser.press("Escape");
    browser.type_in("ETC mot");
    browser.until("document.getElementById('count').innerText.startsWith('1 of')");
    assert_eq!(browser.value(PATHS), json!(["/etc/motd"]));
    browser.press("Enter");
    browser.press("Enter");
    assert!(browser.text("#about").contains("changed: content"), "{}", browser.text("#about"));
    browser.press("Escape");
    assert_eq!(browser.value("Details.isOpen()"), false);
    assert_eq!(browser.value("document.activeElement.id"), "table");
    browser.press("/");
    browser.press("Backspace");
    browser.until("!document.getElementById('search').value");
    browser.press("Escape");
    assert_eq!(browser.value("document.activeElement.id"), "table");
    // Sort by path, then by size in descending order.
    browser.until("document.querySelectorAll('#rows .row').length > 10");
    assert_eq!(browser.value(&format!("{PATHS}[0]")), "/etc/gone");
    browser.press("s");
    assert_eq!(browser.value(&format!("{PATHS}[0]")), "/usr/bin/new");
    assert_eq!(
        browser.value("document.querySelector('[aria-sort=descending]').innerText"),
        "Size ↓"
    );
    browser.press("S");
    assert_eq!(
        browser.value("document.querySelector('[aria-sort=ascending]').innerText"),
        "Size ↑"
    );
    browser.press("End");
    browser.press(" ");
    assert!(browser.text("#about").contains("/usr/bin/new"), "{}", browser.text("#about"));
    assert_eq!(
        browser.value("document.querySelector('.row.active .at-path').title"),
        "/usr/bin/new"
    );
    // Only deleted entries.
    browser.value("document.getElementById('kind-A').focus()");
    browser.press("Enter");
    browser.value("document.getElementById('kind-M').focus()");
    browser.press("Enter");
    browser.press("c");
    browser.press("Home");
    browser.until("document.getElementById('count').innerText.startsWith('4 of')");
    let deleted = browser.value(&format!("{PATHS}.sort()"));
    assert_eq!(deleted, json!(["/etc/gone", "/srv/old", "/srv/old/one", "/srv/old/two"]));
    // The treemap: into usr, to the cell of its share directory, and up again.
    browser.press("m");
    let at = "document.activeElement.getAttribute('aria-label')";
    assert!(browser.value(at).as_str().unwrap().starts_with("/usr, "), "{}", browser.value(at));
    browser.press("Enter");
    assert!(browser.text("#crumbs").contains("usr"), "{}", browser.text("#crumbs"));
    assert!(browser.value(at).as_str().unwrap().starts_with("/usr/share, "));
    browser.press("ArrowRight");
    assert!(browser.value(at).as_str().unwrap().starts_with("/usr/bin, "), "{}", browser.value(at));
    browser.press("Backspace");
    assert!(browser.value(at).as_str().unwrap().starts_with("/usr, "));
    // By package: a file with two hard links is counted once.
    browser.value("(() => { const by = document.getElementById('map-by'); by.value = 'package'; by.dispatchEvent(new Event('change')); })()");
    browser.press("m");
    let shells = "[...document.querySelectorAll('.cell')].map((cell) => cell.getAttribute('aria-label')).find((label) => label && label.startsWith('shells'))";
    assert!(
        browser.value(shells).as_str().unwrap().starts_with("shells 1-2, 120 kB"),
        "{}",
        browser.value(shells)
    );
    // Help.
    browser.press("?");
    assert_eq!(browser.value("document.getElementById('help').open"), true);
    browser.press("Escape");
    assert_eq!(browser.value("document.getElementById('help').open"), false);
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn hostile_names_are_shown_as_text_and_nothing_is_requested() {
    let scene = Scene::new();
    let mut browser = scene.page();
    browser.press("/");
    browser.type_in("hostile");
    browser.until("document.getElementById('count').innerText.startsWith('10 of')");
    let paths = browser.value(&format!("{PATHS}.sort()"));
    let paths: Vec<&str> =
        paths.as_array().unwrap().iter().filter_map(|path| path.as_str()).collect();
    for path in [
        "/srv/hostile/<img src=x onerror=window.harm=2>",
        "/srv/hostile/{script}{data}<!--",
        "/srv/hostile/esc\\x1b[31m\\x1b]0;harm\\x07red",
        "/srv/hostile/line\\x0afeed",
        "/srv/hostile/right\\xe2\\x80\\xaegpj.exe",
        "/srv/hostile/wide \u{6f22}\u{5b57} \u{1f9e5}",
    ] {
        assert!(paths.contains(&path), "{path}: {paths:?}");
    }
    browser.value("[...document.querySelectorAll('#rows .row')].find((row) => row.innerText.includes('link')).click()");
    assert!(browser.text("#about").contains("<b>target</b>"), "{}", browser.text("#about"));
    assert_eq!(
        browser.value("[typeof window.harm, document.images.length, document.scripts.length]"),
        json!(["undefined", 0, 2])
    );
    let asked =
        browser.requests.iter().filter(|url| !url.starts_with("data:") && *url != "about:blank");
    let asked: Vec<_> = asked.collect();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
    // The policy also blocks an injected script and a request.
    browser.value("document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.harm = 3' }))");
    browser
        .value("document.body.append(Object.assign(new Image(), { src: 'http://127.0.0.1:9/' }))");
    browser.until("typeof window.harm === 'undefined'");
    assert!(
        browser.complaints.iter().any(|one| one.contains("script-src")),
        "{:?}",
        browser.complaints
    );
    assert!(
        browser.complaints.iter().any(|one| one.contains("img-src")),
        "{:?}",
        browser.complaints
    );
}

#[test]
fn page_is_legible_in_both_color_schemes_and_in_print() {
    let scene = Scene::new();
    let mut browser = scene.page();
    browser.value("Details.show(DATA.changes.node.find((row) => path(row) === '/etc/motd'))");
    assert!(browser.text(".diff .plus").contains("+to the overlay"));
    assert!(browser.text(".diff .minus").contains("-to the base"));
    let mut pictures = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        for colour in ["layer", "change"] {
            browser.value(&format!("(() => {{ const by = document.getElementById('map-colour'); by.value = '{colour}'; by.dispatchEvent(new Event('change')); }})()"));
            assert_eq!(browser.value(FAINT), json!([]), "{scheme} {colour}");
            pictures.push(browser.picture());
        }
    }
    pictures.sort();
    pictures.dedup();
    assert_eq!(pictures.len(), 4);
    // The page's setting overrides the system's.
    browser.press("t");
    assert_eq!(browser.value("getComputedStyle(document.documentElement).colorScheme"), "light");
    assert_eq!(browser.value(FAINT), json!([]));
    let pdf = browser.call("Page.printToPDF", json!({"printBackground": true}));
    assert!(pdf["data"].as_str().unwrap().starts_with("JVBERi"));
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn page_is_reproducible_and_written_completely_or_not_at_all() {
    let scene = Scene::new();
    let pages = BOTH_USERS.map(|who| fs::read(scene.write(who, "page.html")).unwrap());
    assert!(pages[0] == pages[1]);
    let page = String::from_utf8_lossy(&pages[0]);
    let place = scene.stage.path("");
    assert!(!page.contains(place.to_str().unwrap()));
    // Content that not all users may read is left out.
    assert!(page.contains("to the overlay") && !page.contains("$jam$"));
    let inspect = |arguments: &[&str]| {
        let mut command = scene.stage.overcoat(Who::Root);
        command.current_dir(scene.stage.path(""));
        finish(command.arg("inspect").args(arguments))
    };
    let (base, overlay) = ("base.squashfs", "over.cpio.gz");
    assert!(inspect(&[base, overlay, "--html", "-"]).ok().stdout == pages[0]);
    inspect(&[base, overlay, "--html", overlay]).code(2).stderr_has(&["cannot overwrite a layer"]);
    inspect(&[base, overlay, "--html", "none/page.html"]).code(2).stderr_has(&["none/page.html"]);
    // A damaged image leaves no output.
    scene.stage.write("damaged.cpio.gz", &fs::read(&scene.overlay).unwrap()[..600]);
    inspect(&[base, "damaged.cpio.gz", "--html", "root/damaged.html"]).code(2);
    assert_eq!(scene.stage.files(Who::Root), [PathBuf::from("root/page.html")]);
}

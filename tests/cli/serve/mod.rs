//! The boot server: the index, scripts, the page, file transfers and rejected requests.

mod clients;
mod site;

use std::io::{Read, Write};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::browser;
use crate::support::processes::within;
use crate::support::stage::{Who, finish};
use site::{LIMIT, Serving, Site, answer, bytes, hex};

#[test]
fn index_lists_images_with_files_and_boot_commands() {
    let site = Site::new();
    let serving = site.serve(&["--append", "quiet net.ifnames=0"]);
    let answer = serving.get("/index.json");
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let index: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&index["schema"], &index["default"]), (&1.into(), &Value::Null));
    let image = |name: &str| {
        let images = index["images"].as_array().unwrap();
        images.iter().find(|image| image["name"] == name).unwrap().clone()
    };
    let one = image("one");
    assert_eq!(one["layers"], serde_json::json!(["base"]));
    assert_eq!(one["description"], "<b>one</b> & 'only'");
    let file = &one["files"][0];
    assert_eq!(file["url"], "/one.cpio.gz");
    assert_eq!(file["size"], 100_000);
    assert_eq!(file["sha256"], site.sha256("one.cpio.gz"));
    assert_eq!(file["manifest"], "/one.cpio.gz.manifest.json");
    assert_eq!(serving.get("/one.cpio.gz.manifest.json").text(), "{}\n");
    // The first format that an initrd can unpack is used; layers are in their order.
    let at = "http://boot.example.org:8080";
    assert_eq!(
        image("two")["boot"]["parameters"],
        format!(
            "boot=overcoat BASEFS={at}/base.squashfs OVERLAYFS={at}/one.cpio.gz,{at}/two.cpio.zst \
             BOOTIF=01-${{netX/mac:hexhyp}} BASEFS_SHA256={} OVERLAYFS_SHA256={},{} console=tty0 \
             console=ttyS0 quiet net.ifnames=0",
            site.sha256("base.squashfs"),
            site.sha256("one.cpio.gz"),
            site.sha256("two.cpio.zst")
        )
    );
    let bare = image("base")["boot"]["parameters"].as_str().unwrap().to_owned();
    assert!(bare.contains("BASEFS=") && !bare.contains("OVERLAYFS"), "{bare}");
    // The initrd made on the same base; its name is percent-encoded.
    let other = image("other");
    assert_eq!(other["boot"]["kernel"], format!("{at}/other/vmlinuz"));
    assert_eq!(other["boot"]["initrd"], format!("{at}/other/initrd%20%C3%A4.img"));
    assert_eq!(serving.get("/other/initrd%20%C3%A4.img").body, site.content("other/initrd ä.img"));
    for (name, why) in [
        ("missing", "missing.cpio.gz has not been built yet"),
        ("foreign", "elsewhere.squashfs is not an image of the project"),
    ] {
        let image = image(name);
        assert!(image["not_bootable"].as_str().unwrap().ends_with(why), "{image}");
        assert!(image["boot"].is_null(), "{image}");
        let answer = serving.get(&format!("/boot/{name}.ipxe"));
        assert_eq!(answer.status, 404);
        assert!(answer.text().contains(why), "{}", answer.text());
    }
    assert!(image("boot")["boot"].is_null());
    assert_eq!(serving.get("/boot/boot.ipxe").status, 404);
}

#[test]
fn scripts_use_the_host_name_of_the_request() {
    let site = Site::new();
    let serving = site.serve(&[]);
    for host in ["boot", "10.0.2.2:8080", "[fd00::1]:80"] {
        let request = format!("GET /boot/one.ipxe HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = serving.raw(request.as_bytes()).unwrap();
        let text = answer.text();
        assert!(text.starts_with("#!ipxe\n"), "{text}");
        assert!(text.ends_with("\nboot\n"), "{text}");
        let kernel = format!("\nkernel http://{host}/vmlinuz initrd=initrd.img boot=overcoat ");
        assert!(text.contains(&kernel), "{text}");
        let initrd = format!("\ninitrd --name initrd.img http://{host}/initrd.img\n");
        assert!(text.contains(&initrd), "{text}");
        assert!(text.contains(&format!(" OVERLAYFS=http://{host}/one.cpio.gz ")), "{text}");
        assert_eq!(answer.header("etag"), format!("\"{}\"", hex(&answer.body)));
    }
    // HTTP/1.0 clients may omit the Host header: the script has the local address.
    let answer = serving.raw(b"GET /boot/one.ipxe HTTP/1.0\r\n\r\n").unwrap();
    assert!(answer.text().contains(&format!("http://{}/vmlinuz", serving.address)));
    // An absolute URL as the target takes precedence.
    let request = b"GET http://proxied/boot/one.ipxe HTTP/1.1\r\nHost: other\r\n\r\n";
    assert!(serving.raw(request).unwrap().text().contains("http://proxied/vmlinuz"));
}

#[test]
fn boot_ipxe_boots_the_default_or_the_only_overlay_or_shows_a_menu() {
    let site = Site::new();
    let menu = site.serve(&[]);
    let text = menu.get("/boot.ipxe").text().to_owned();
    for line in ["item one one on base", "item two two on base and one", "item base base"] {
        assert!(text.lines().any(|l| l == line), "{text}");
    }
    // Neither images that can never be booted nor images that have not been built.
    assert!(!text.contains("item foreign") && !text.contains("item missing"), "{text}");
    let chain = "chain http://boot.example.org:8080/boot/${image}.ipxe";
    assert!(text.lines().any(|l| l == chain), "{text}");

    let default = site.serve(&["--default", "two"]);
    assert_eq!(default.get("/boot.ipxe").body, default.get("/boot/two.ipxe").body);
    for (name, text) in [
        ("tow", "did you mean `two`?"),
        ("foreign", "not an image of the project"),
        ("boot", "it is an initrd"),
    ] {
        let failed = finish(&mut site.command(&["--default", name])).code(2);
        failed.stderr_has(&[name, text]);
    }

    site.project(
        "output: artifacts\nimages:\n  base: {kind: base, release: x, provisioner: nothing}
  one: {base: base, provisioner: nothing}\n  boot: {kind: initrd, base: base, provisioner: nothing}\n",
    );
    let only = site.serve(&[]);
    assert_eq!(only.get("/boot.ipxe").body, only.get("/boot/one.ipxe").body);
}

#[test]
fn script_of_an_initrd_with_a_script_of_its_own_does_not_send_boot() {
    let site = Site::new();
    for (variables, sends) in [
        ("", true),
        ("boot_script: overcoat", true),
        ("boot_script: local", false),
        ("https: true", true),
    ] {
        site.project(&format!(
            "output: artifacts\nimages:\n  base: {{kind: base, release: x, provisioner: nothing}}
  one: {{base: base, provisioner: nothing}}
  boot: {{kind: initrd, base: base, provisioner: 'library:initrd', variables: {{{variables}}}}}\n"
        ));
        let serving = site.serve(&[]);
        let text = serving.get("/boot.ipxe").text().to_owned();
        let first = if sends { "boot=overcoat BASEFS=" } else { "BASEFS=" };
        assert!(text.contains(&format!(" initrd=initrd.img {first}")), "{variables}: {text}");
    }
}

#[test]
fn url_option_sets_the_prefix_of_all_urls() {
    let site = Site::new();
    let serving = site.serve(&["--url", "https://boot.example.org/images/"]);
    let at = "https://boot.example.org/images";
    let menu = serving.get("/boot.ipxe");
    assert!(menu.text().contains(&format!("\nchain {at}/boot/${{image}}.ipxe\n")), "{menu:?}");
    let script = serving.get("/boot/one.ipxe");
    assert!(script.text().contains(&format!("\nkernel {at}/vmlinuz ")), "{script:?}");
    assert!(script.text().contains(&format!(" OVERLAYFS={at}/one.cpio.gz ")), "{script:?}");
    let page = serving.get("/");
    let page = page.text().replace("&#x2f;", "/");
    assert!(page.contains(&format!("chain {at}/boot.ipxe")));
    for link in
        ["boot.ipxe", "boot/one.ipxe", "one.cpio.gz", "one.cpio.gz.manifest.json", "index.json"]
    {
        assert!(page.contains(&format!("href=\"/images/{link}\"")), "{link}: {page}");
    }
    let index: Value = serde_json::from_slice(&serving.get("/index.json").body).unwrap();
    let one =
        index["images"].as_array().unwrap().iter().find(|image| image["name"] == "one").unwrap();
    assert_eq!(one["files"][0]["url"], "/images/one.cpio.gz");
    assert_eq!(one["boot"]["script"], "/images/boot/one.ipxe");
    for url in
        ["boot.example.org", "http://", "http:///x", "https://a b", "https://a\nb", "ftp://a"]
    {
        finish(&mut site.command(&["--url", url])).code(2).stderr_has(&["invalid boot server URL"]);
    }
}

#[test]
fn changed_project_file_is_read_again() {
    let site = Site::new();
    let serving = site.serve(&[]);
    site.artifact("new.cpio.gz", b"new");
    assert_eq!(serving.get("/new.cpio.gz").status, 404);
    let with = |text: &str| {
        site.project(&format!(
            "output: artifacts\nimages:\n  base: {{kind: base, release: x, provisioner: nothing}}
  one: {{base: base, provisioner: nothing}}\n{text}"
        ));
    };
    with("  new: {base: base, provisioner: nothing}\n");
    assert_eq!(serving.get("/new.cpio.gz").text(), "new");
    assert!(serving.get("/").text().contains("new.cpio.gz"));
    assert_eq!(serving.get("/two.cpio.zst").status, 404);
    // An invalid project file is logged and does not change what is served.
    with("  new: {base: base, provisoner: nothing}\n");
    assert!(serving.get("/").text().contains("new.cpio.gz"));
    within(LIMIT, "the warning is logged", || {
        let log = serving.log();
        log.contains("serving the previous one") && log.contains("provisoner: unknown key")
    });
    with("  newer: {base: base, provisioner: nothing}\n");
    // Fetching a known file does not read the project file again.
    assert!(serving.get("/index.json").text().contains("\"newer\""));
    assert_eq!(serving.get("/new.cpio.gz").status, 404);
}

#[test]
fn invalid_options_and_projects_fail_before_listening() {
    let site = Site::new();
    let serving = site.serve(&[]);
    let mut taken = site.command(&["--append", "x"]);
    let taken = finish(taken.arg("--listen").arg(serving.address.to_string()));
    // `command` already has --listen, and a second one is an error; so build the command here.
    assert_eq!(taken.code, 2);
    let mut again = site.stage.overcoat(Who::Unprivileged);
    again.arg("serve").arg(site.stage.path("project"));
    again.arg("--listen").arg(serving.address.to_string());
    finish(&mut again).code(2).stderr_has(&["cannot listen on", "in use"]);
    finish(&mut site.command(&["--append", "a\nshell"])).code(2).stderr_has(&["one line"]);

    let mut no = site.stage.overcoat(Who::Unprivileged);
    finish(no.arg("serve").arg(site.stage.path("project/nothing")))
        .code(2)
        .stderr_has(&["nothing"]);
    site.project("images:\n  boot: {kind: initrd, base: ./a.squashfs, provisioner: nothing, yields: {index.json: /x}}\n");
    finish(&mut site.command(&[])).code(2).stderr_has(&["boot", "index.json", "another name"]);
}

#[test]
fn overlong_kernel_command_line_is_an_error() {
    let site = Site::new();
    let serving = site.serve(&["--append", &"x".repeat(2000)]);
    let answer = serving.get("/boot/one.ipxe");
    assert_eq!(answer.status, 404);
    assert!(answer.text().contains("the limit is 2047"), "{}", answer.text());
}

#[test]
fn files_are_served_whole_or_by_range() {
    let site = Site::new();
    let serving = site.serve(&[]);
    for name in ["base.squashfs", "one.cpio.gz", "other-base.squashfs", "two.tar"] {
        let content = site.content(name);
        let path = format!("/{name}");
        let whole = serving.get(&path);
        assert_eq!(whole.status, 200);
        assert!(whole.body == content, "{name}");
        assert_eq!(whole.header("etag"), format!("\"{}\"", hex(&content)));
        assert_eq!(whole.header("content-length"), content.len().to_string());
        assert_eq!(whole.header("accept-ranges"), "bytes");
        let head = serving.ask("HEAD", &path, &[("Range", "bytes=0-1")]);
        assert_eq!((head.status, head.body.len()), (200, 0));
        for header in ["etag", "content-length", "last-modified", "content-type", "accept-ranges"] {
            assert_eq!(head.header(header), whole.header(header), "{header}");
            assert!(!head.header(header).is_empty(), "{header}");
        }
    }
    let content = site.content("base.squashfs");
    let size = content.len();
    for (range, part) in [
        ("bytes=0-0".to_owned(), 0..1),
        (format!("bytes={}-", size - 1), size - 1..size),
        ("bytes=-1000".to_owned(), size - 1000..size),
        ("bytes=-99999999999999999999".to_owned(), 0..size),
        ("bytes=1000-2500000".to_owned(), 1000..2_500_001),
        ("bytes=2999990-99999999999999999999999".to_owned(), 2_999_990..size),
    ] {
        let answer = serving.ask("GET", "/base.squashfs", &[("Range", &range)]);
        assert_eq!(answer.status, 206, "{range}");
        let expected = format!("bytes {}-{}/{size}", part.start, part.end - 1);
        assert_eq!(answer.header("content-range"), expected);
        assert!(answer.body == content[part], "{range}");
    }
    for range in [format!("bytes={size}-"), "bytes=99999999999999999999-".into(), "bytes=-0".into()]
    {
        let answer = serving.ask("GET", "/base.squashfs", &[("Range", &range)]);
        assert_eq!(answer.status, 416, "{range}");
        assert_eq!(answer.header("content-range"), format!("bytes */{size}"));
    }
    let many = vec!["0-"; 1000].join(",");
    for range in [
        "bytes=9-5",
        "bytes=a-b",
        "bytes=0-0,2-2",
        "bytes=0-10,5-15,10-20",
        "lines=0-1",
        &format!("bytes={many}"),
    ] {
        let answer = serving.ask("GET", "/base.squashfs", &[("Range", range)]);
        assert_eq!(answer.status, 200, "{range}");
        assert_eq!(answer.body.len(), size, "{range}");
    }
}

#[test]
fn conditional_requests_use_the_entity_tag_and_the_date() {
    let site = Site::new();
    let serving = site.serve(&[]);
    for path in ["/one.cpio.gz", "/", "/index.json", "/boot/one.ipxe"] {
        let whole = serving.get(path);
        let etag = whole.header("etag").to_owned();
        for (name, value) in [("If-None-Match", etag.as_str()), ("If-None-Match", "*")] {
            let answer = serving.ask("GET", path, &[(name, value)]);
            assert_eq!(answer.status, 304, "{path}");
            assert_eq!(answer.header("etag"), etag);
        }
        assert_eq!(serving.ask("GET", path, &[("If-None-Match", "\"x\"")]).status, 200);
        let part = serving.ask("GET", path, &[("If-Range", &etag), ("Range", "bytes=2-5")]);
        assert_eq!((part.status, part.body.as_slice()), (206, &whole.body[2..6]));
        let part = serving.ask("GET", path, &[("If-Range", "\"x\""), ("Range", "bytes=2-5")]);
        assert_eq!((part.status, part.body.len()), (200, whole.body.len()));
        assert_eq!(serving.ask("GET", path, &[("If-Match", "\"x\"")]).status, 412);
    }
    let date = serving.get("/one.cpio.gz").header("last-modified").to_owned();
    assert_eq!(serving.ask("GET", "/one.cpio.gz", &[("If-Modified-Since", &date)]).status, 304);
}

#[test]
fn rebuilt_artifact_is_served_at_once_and_running_downloads_finish_with_the_old_one() {
    let site = Site::new();
    let old = bytes("old", 30_000_000);
    site.artifact("base.squashfs", &old);
    let serving = site.serve(&[]);
    let mut slow = serving.connect();
    slow.write_all(b"GET /base.squashfs HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut begun = vec![0; 1000];
    slow.read_exact(&mut begun).unwrap();

    let new = bytes("new", 20_000_000);
    site.artifact("base.squashfs", &new);
    let answer = serving.get("/base.squashfs");
    assert_eq!(answer.header("etag"), format!("\"{}\"", hex(&new)));
    assert!(answer.body == new);
    assert!(serving.get("/boot/base.ipxe").text().contains(&hex(&new)));

    let head = begun.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let mut rest = vec![0; old.len() - (begun.len() - head)];
    slow.read_exact(&mut rest).unwrap();
    assert!(begun[head..] == old[..1000 - head] && rest == old[1000 - head..]);

    std::fs::remove_file(site.path("base.squashfs")).unwrap();
    assert_eq!(serving.get("/base.squashfs").status, 404);
    site.artifact("base.squashfs", &old);
    assert_eq!(serving.get("/base.squashfs").body.len(), old.len());
}

#[test]
fn response_is_aborted_when_its_file_changes_in_place() {
    let site = Site::new();
    let content = bytes("old", 30_000_000);
    for cut in [true, false] {
        site.artifact("base.squashfs", &content);
        let serving = site.serve(&[]);
        let mut slow = serving.connect();
        slow.write_all(b"GET /base.squashfs HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        slow.read_exact(&mut [0; 1000]).unwrap();
        let file = std::fs::File::options().write(true).open(site.path("base.squashfs")).unwrap();
        if cut {
            file.set_len(29_000_000).unwrap();
        } else {
            (&file).write_all(b"changed").unwrap();
        }
        let mut rest = Vec::new();
        let _ = slow.read_to_end(&mut rest);
        assert!(rest.len() < content.len() - 1000, "{}", rest.len());
        // The server goes on serving.
        let now = site.content("base.squashfs");
        assert_eq!(serving.get("/base.squashfs").header("etag"), format!("\"{}\"", hex(&now)));
    }
}

#[test]
fn recorded_digests_are_not_computed_again() {
    let site = Site::new();
    // Small files are always read; this one is large.
    site.stage.sh("mkdir -p tree/bin && head -c 200000 /dev/urandom >tree/bin/x");
    let out = site.stage.out(Who::Unprivileged);
    site.project(&format!(
        "output: {}\nimages:\n  base: {{kind: base, from: ../tree, provisioner: nothing}}\n",
        out.display()
    ));
    let mut build = site.stage.overcoat(Who::Unprivileged);
    finish(build.arg("build").arg(site.stage.path("project"))).ok();
    let mut command = site.command(&[]);
    command.args(["-v", "-v"]);
    let serving = Serving::start(command);
    let content = std::fs::read(out.join("base.squashfs")).unwrap();
    let etag = serving.ask("HEAD", "/base.squashfs", &[]).header("etag").to_owned();
    assert_eq!(etag, format!("\"{}\"", hex(&content)));
    assert_eq!(serving.get("/").status, 200);
    let built = serving.log();
    assert!(!built.contains("last complete build"), "{built}");
    // A file that differs from the record is reported, and served with its own digest.
    std::fs::write(out.join("base.squashfs"), &content[..100_000]).unwrap();
    let etag = serving.get("/base.squashfs").header("etag").to_owned();
    assert_eq!(etag, format!("\"{}\"", hex(&content[..100_000])));
    let reported = "base.squashfs differs from the output of the last complete build";
    crate::support::eventually(reported, || serving.log().contains(reported));
    serving.signal(Signal::SIGTERM);
    serving.end();
    let computed: Vec<&str> = built.lines().filter(|line| line.contains("its digest")).collect();
    assert!(computed.iter().all(|line| line.contains("manifest.json")), "{built}");
}

#[test]
fn only_artifacts_can_be_requested() {
    let site = Site::new();
    let serving = site.serve(&[]);
    let absolute = site.stage.path("secret").display().to_string();
    let mut paths: Vec<String> = [
        "/secret",
        "/../secret",
        "/../../secret",
        "/%2e%2e/secret",
        "/%2E%2e%2Fsecret",
        "/..%2fsecret",
        "/..%5csecret",
        "/..\\secret",
        "/.%2e/secret",
        "/%252e%252e/secret",
        "/%c0%ae%c0%ae/secret",
        "/....//secret",
        "//secret",
        "//..//secret",
        "/./../secret",
        "/boot/../../secret",
        "/boot/../secret.ipxe",
        "/boot/..%2f..%2fsecret.ipxe",
        "/other/../../secret",
        "/base.squashfs/../../secret",
        "/base.squashfs%00",
        "/%00",
        "/secret%00.ipxe",
        "/no-artifact",
        "/.overcoat",
        "/.overcoat/base.json",
        "/artifacts",
        "/overcoat.yml",
        "/../overcoat.yml",
        "//base.squashfs",
        "/./base.squashfs",
        "/base.squashfs/",
        "/other",
        "/other/",
        "/boot",
        "/boot/",
        "/boot/.ipxe",
        "/BASE.squashfs",
        "/one.cpio.gz.new",
        "/base.squashfs.manifest.json",
        "/%",
        "/%zz",
        "/%ff",
        "/etc/passwd",
        "/file:///etc/passwd",
        "/~root",
        "/*",
    ]
    .map(str::to_owned)
    .to_vec();
    paths.push(absolute.clone());
    paths.push(format!("/{absolute}"));
    paths.push(absolute.replace('/', "%2f"));
    for path in paths {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let answer = serving.raw(request.as_bytes()).unwrap_or_else(|| panic!("{path}"));
        assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
        assert!(!answer.text().contains("secret"), "{path}: {answer:?}");
    }
    for target in ["..", "../secret", "secret", "file:///etc/passwd", "*", "http://a"] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let answer = serving.raw(request.as_bytes()).unwrap_or_else(|| panic!("{target}"));
        assert!(!String::from_utf8_lossy(&answer.body).contains("root:"), "{target}: {answer:?}");
    }
    // A query is ignored, and only regular files are served.
    assert_eq!(serving.get("/other.cpio.gz?x=../secret").body, site.content("other.cpio.gz"));
    for other in ["mkdir", "mkfifo"] {
        site.stage
            .sh(&format!("rm -rf project/artifacts/two.tar; {other} project/artifacts/two.tar"));
        assert_eq!(serving.get("/two.tar").status, 404, "{other}");
    }
}

#[test]
fn other_methods_bodies_and_malformed_requests_are_rejected() {
    let site = Site::new();
    let serving = site.serve(&[]);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "PROPFIND"] {
        let answer = serving.ask(method, "/one.cpio.gz", &[]);
        assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD"), "{method}");
    }
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: <script>\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: ${net0/ip}\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 413),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n",
            413,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde", 405),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("nonsense\r\n\r\n", 400),
        ("\x16\x03\x01\x02\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nbad name: x\r\n\r\n", 400),
    ] {
        let answer = serving.raw(request.as_bytes()).unwrap_or_else(|| panic!("{request}"));
        assert_eq!(answer.status, status, "{request}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(1 << 20));
    let wide = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(1000));
    for request in [long, wide, many] {
        // The server may close the connection before it has read all, which can discard the answer.
        if let Some(answer) = serving.raw(request.as_bytes()) {
            assert!(matches!(answer.status, 400 | 414 | 431), "{answer:?}");
        }
    }
    assert_eq!(serving.get("/other.cpio.gz").status, 200);
}

#[test]
fn connection_serves_pipelined_requests() {
    let site = Site::new();
    let serving = site.serve(&[]);
    let mut stream = serving.connect();
    let one = "GET /one.cpio.gz HTTP/1.1\r\nHost: a\r\n\r\n";
    let two = "HEAD /base.squashfs HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(format!("{one}{two}{one}").as_bytes()).unwrap();
    let content = site.content("one.cpio.gz");
    for head in [false, true, false] {
        let answer = answer(&mut stream, head).unwrap();
        assert_eq!(answer.status, 200);
        assert!(head || answer.body == content);
    }
    // Each request is in the log.
    drop(stream);
    serving.signal(Signal::SIGINT);
    let (code, log) = serving.end();
    assert_eq!(code, Some(0), "{log}");
    let lines = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!(lines(" GMT GET /one.cpio.gz 200 100000 bytes "), 2, "{log}");
    assert_eq!(lines(" GMT HEAD /base.squashfs 200 0 bytes "), 1, "{log}");
}

#[test]
fn page_shows_digests_links_and_boot_commands() {
    let site = Site::new();
    let serving = site.serve(&[]);
    let answer = serving.get("/");
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    assert!(answer.header("content-security-policy").starts_with("default-src 'none'"));
    let page = answer.text().replace("&#x2f;", "/");
    assert!(page.contains("&lt;b&gt;one&lt;/b&gt; &amp; &#x27;only&#x27;"), "{page}");
    assert!(!page.contains("<script") && !page.contains("<b>one"), "{page}");
    let script = serving.get("/boot/two.ipxe").text().to_owned();
    let kernel = script.lines().find(|line| line.starts_with("kernel")).unwrap();
    assert!(page.contains(kernel), "{page}");
    for what in [
        site.sha256("base.squashfs").as_str(),
        "overcoat boot two",
        "overcoat build missing",
        "Overlay of base, then one",
        "chain http://boot.example.org:8080/boot.ipxe",
        "href=\"/other/initrd%20%C3%A4.img\"",
    ] {
        assert!(page.contains(what), "{what}: {page}");
    }
}

#[test]
fn browser_renders_the_page_in_both_color_schemes_and_requests_nothing_else() {
    let site = Site::new();
    let serving = site.serve(&[]);
    let look = |options: &[&str]| {
        let profile = site.stage.path(format!("profile-{}", options.join("")));
        std::fs::create_dir(&profile).unwrap();
        let mut command = site.stage.command(Who::Root, browser::program());
        command.current_dir(site.stage.path("")).env("HOME", &profile);
        browser::options(&mut command, &profile);
        command.arg("--window-size=1000,1600").args(options);
        finish(command.arg(format!("http://{}/", serving.address))).ok()
    };
    let dom = look(&["--dump-dom"]).text();
    assert!(dom.contains("<h3 id=\"image-two\">two</h3>"), "{dom}");
    assert_eq!(dom.matches("<article").count(), 9, "{dom}");
    look(&["--screenshot=light.png", "--blink-settings=preferredColorScheme=1"]);
    look(&["--screenshot=dark.png", "--blink-settings=preferredColorScheme=0"]);
    let [light, dark] =
        ["light.png", "dark.png"].map(|name| std::fs::read(site.stage.path(name)).unwrap());
    assert!(light.starts_with(b"\x89PNG") && dark.starts_with(b"\x89PNG"));
    assert!(light.len() > 20_000 && light != dark, "the page has no style");
    let log = serving.log();
    let asked = log.lines().filter(|line| line.contains("INFO"));
    assert!(asked.clone().all(|line| line.contains(" GET / 200 ")), "{log}");
    assert_eq!(asked.count(), 3, "{log}");
}

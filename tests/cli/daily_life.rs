//! A day with a project: at each point the right images are out of date, and nothing is built that
//! need not be.

use std::fs;

use crate::project_fixture::Site;
use crate::snapshot::{self, Transcript, without_digests_sizes_and_ages};
use crate::support::stage::Who;

#[test]
fn day_in_the_life_of_a_project() {
    let site = Site::new();
    let who = Who::Unprivileged;
    let text = fs::read_to_string(site.file(who)).unwrap();
    let output = format!("output: {}", site.out(who).display());
    site.write("overcoat.yml", &text.replace(&output, "output: build"));
    let project = site.stage.path("project");
    fs::create_dir(project.join("build")).unwrap();
    site.stage.give(&project, who);
    site.stage.give(&project.join("build"), who);
    let mut transcript = Transcript::new(&project);
    let mut run = |line: &str| {
        transcript.run(site.stage.overcoat(who), line);
    };

    // In the morning nothing is built. Afterwards all is up to date.
    run("status");
    run("build -j 1");
    run("status --exit-code");

    // A variable, a template and a script of one overlay change; only this overlay is built.
    site.edit("overcoat.yml", "provisioner: one}", "provisioner: one, variables: {greeting: yo}}");
    run("status");
    run("build -j 1");
    site.edit("one/files/etc/greeting.j2", "{{ greeting }}", "{{ greeting }}!");
    run("build -j 1");
    site.edit("one/do", "echo more", "echo less");
    run("build -j 1");

    // The last change was wrong. The previous result stays until something changes.
    run("rollback one");
    run("status one");
    run("build -j 1");
    run("rollback one");
    run("rollback --list one");
    site.edit("one/do", "echo less", "echo much");
    run("build -j 1");

    // The next base is built beside the current one and checked, and then it replaces it.
    site.edit("base/files/etc/name.j2", "{{ name }}", "{{ name }}!");
    run("build -j 1 base -o next.squashfs");
    run("status base one");
    run("check --base next.squashfs --only fit");
    run("promote next.squashfs");
    run("build -j 1");
    run("status");
    run("build -j 1 --rebase one");
    run("rollback base");
    run("status base one");
    run("rollback base --to 0000");

    // The last overlay loses a format and the initrd goes; their files are removed.
    site.edit("overcoat.yml", "format: [cpio.gz, cpio.zst]", "format: [cpio.gz]");
    site.edit("overcoat.yml", "  boot: {kind: initrd, base: base, provisioner: kernel}\n", "");
    run("build -j 1");
    run("status");
    run("clean -n");
    run("clean");
    run("clean --kept");
    run("status");
    run("build -j 1");

    let _settings = snapshot::bind("");
    let text = without_digests_sizes_and_ages(&transcript.text());
    insta::assert_snapshot!("daily_life", text);
}

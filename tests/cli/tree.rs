//! `tree`, which draws the directories of images.

use crate::image_fixture::archives;
use crate::snapshot::{self, Transcript, program};

#[test]
fn tree_draws_trees() {
    let folder = archives();
    let mut transcript = Transcript::new(folder.path());
    for options in ["", " --layers :etc", " -L1 -d", " -s :usr"] {
        transcript.run(program(), &format!("tree base.cpio over.cpio{options}"));
    }
    let _settings = snapshot::bind("");
    insta::assert_snapshot!("tree_draws_trees", transcript.text());
}

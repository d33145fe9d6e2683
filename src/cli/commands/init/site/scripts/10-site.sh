#!/bin/sh
# Runs in the root while the image is built. Its changes become part of the image; the script does
# not.
set -eu
ln -sf /usr/local/bin/site-report /usr/local/bin/report

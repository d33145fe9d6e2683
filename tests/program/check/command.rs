//! The command line of `check`: what is judged, what is told, exit codes, JSON and SARIF.

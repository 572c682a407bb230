//! All tests in one binary: linking costs more than running.

mod dialogs;

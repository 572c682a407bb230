//! Admin, config, observability. G: HTTP, control socket, config, log and metrics.

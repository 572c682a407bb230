//! Delivery side, where it takes root, time or Debian packages.

//! Resources and slow peers. RS: floods, slow peers, overload.

//! End of data and bugs of other servers. T: what ended a message or kept state elsewhere, and must not here.

//! Delivery side. O: next hops that refuse, hang, lie or drop.

//! Big lists and maps, kept and indexed by the gateway. Grant `tables`; only the tables that the plugin's entry names.

use std::fmt;
use std::net::IpAddr;

use crate::{Address, sys};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableError {
    /// No table of that name is granted.
    NoTable,
    /// It could not be read when it was last loaded.
    Unavailable,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoTable => "no table of that name is granted to this plugin",
            Self::Unavailable => "the table could not be read",
        })
    }
}

impl std::error::Error for TableError {}

/// The value of exactly that key, compared without regard to ASCII case; empty for a plain list.
pub fn lookup(table: &str, key: &str) -> Result<Option<String>, TableError> {
    sys::table_lookup(table, key)
}

/// Of the most specific of: the address, its domain, each parent domain written with a leading dot (`.example.com`).
pub fn match_address(table: &str, address: &Address) -> Result<Option<String>, TableError> {
    sys::table_match_address(table, address)
}

/// Of the domain, or its nearest parent written with a leading dot.
pub fn match_domain(table: &str, domain: &str) -> Result<Option<String>, TableError> {
    sys::table_match_domain(table, domain)
}

/// Of the longest network that holds the address; keys are addresses, `NET/BITS`, or `NET/MASK`, contiguous or not.
pub fn match_ip(table: &str, address: IpAddr) -> Result<Option<String>, TableError> {
    sys::table_match_ip(table, address)
}

//! Wasm plugins. W: plugins that loop, hoard, trap, flood, inject or are swapped.

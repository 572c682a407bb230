//! The one WebAssembly engine: pooled slots for instances, copy-on-write memory, and a clock of its own by which
//! calls are interrupted.

use std::num::NonZeroUsize;
use std::time::Duration;

use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// How often a running guest is looked at. A CPU budget holds to within two of these.
pub const TICK: Duration = Duration::from_millis(5);

/// Core instances, memories and tables that one component may have: what wit-component makes of a Rust plugin takes
/// 4, 1 and 2; what the JavaScript and Python tools make takes up to 30 core instances that share one memory.
const CORE_INSTANCES: u32 = 64;
const MEMORIES: u32 = 2;
const TABLES: u32 = 8;
/// Octets of a memory's first pages that stay mapped in its slot between two calls: page faults dominate the cost
/// of a fresh instance.
const KEEP_RESIDENT: usize = 128 * 1024;

/// Sizes that are fixed when the gateway starts.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Octets to which one plugin's memory may grow; a plugin's own limit can't be above it.
    pub max_memory: u64,
    /// Elements of one table; a plugin's own limit can't be above it.
    pub max_table_elements: u32,
    /// Octets of stack for guest code. Recursion that needs more is a bug in the guest.
    pub stack: usize,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self { max_memory: 256 << 20, max_table_elements: 100_000, stack: 512 * 1024 }
    }
}

/// An engine for running, with slots for that many instances, and its ticker.
pub(super) fn start(settings: &EngineSettings, instances: u32) -> wasmtime::Result<Engine> {
    let mut config = compile_config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(settings, instances)));
    config.max_wasm_stack(settings.stack);
    // Host functions run on the same stack: the megabyte above the guest's share is theirs.
    config.async_stack_size(settings.stack + (1 << 20));
    // Stacks are not zeroed between calls: compiled code never reads a slot that it has not written, and zeroing
    // makes a fresh call half as long again (measured, 22 to 32 µs unoptimised). Memories and tables are.
    config.wasm_backtrace_max_frames(NonZeroUsize::new(16));
    let engine = Engine::new(&config)?;
    tick(&engine)?;
    Ok(engine)
}

/// An engine that only compiles: no pool, so that it fits under an address space limit. Its code runs in an engine
/// made by [`start`], because all that decides about code is set in [`compile_config`].
pub(super) fn compiler() -> wasmtime::Result<Engine> {
    Engine::new(&compile_config())
}

/// What decides about the code that is made. Features that plugins don't need are off: each is surface.
fn compile_config() -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true);
    config.concurrency_support(false);
    config.memory_init_cow(true);
    config.wasm_memory64(false);
    config.wasm_relaxed_simd(false);
    config
}

fn pool(settings: &EngineSettings, count: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(count)
        .total_core_instances(count.saturating_mul(CORE_INSTANCES))
        .total_memories(count.saturating_mul(MEMORIES))
        .total_tables(count.saturating_mul(TABLES))
        .total_stacks(count)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_tables_per_module(TABLES)
        .max_memory_size(usize::try_from(settings.max_memory).unwrap_or(usize::MAX))
        .table_elements(usize::try_from(settings.max_table_elements).unwrap_or(usize::MAX))
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(KEEP_RESIDENT / 8);
    pool
}

/// Advances the engine's epoch until the engine is gone. A thread of its own: a ticker on the async runtime would
/// stand still just when guests keep all its threads busy.
fn tick(engine: &Engine) -> wasmtime::Result<()> {
    let engine = engine.weak();
    std::thread::Builder::new().name("plugin-ticker".to_owned()).spawn(move || {
        loop {
            std::thread::sleep(TICK);
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_compiling_engine_makes_the_running_engine_takes() {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let hash = |engine: &Engine| {
            let mut hasher = DefaultHasher::new();
            engine.precompile_compatibility_hash().hash(&mut hasher);
            hasher.finish()
        };
        let running = start(&EngineSettings::default(), 2).unwrap();
        assert_eq!(hash(&compiler().unwrap()), hash(&running));
    }
}

//! Caches with limits in bytes, in which a block is decoded by only one thread at a time.
//!
//! Invariants:
//! - The total weight of a cache never exceeds its limit. A single value above the limit is not
//!   cached.
//! - For each key at most one decode is in progress. Callers that request the key meanwhile wait
//!   for the result and share it, including an error. Errors are not cached: the next caller
//!   decodes again.
//! - No lock is held while decoding.
//! - If a decoder unwinds, one of the waiters takes over.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;
use parking_lot::{Condvar, Mutex};

use crate::error::LayerError;

/// Values with a weight, for caches.
pub(super) trait Weigh {
    /// Returns the approximate memory use in bytes.
    fn weight(&self) -> usize;
}

/// A decoded block.
pub(super) type DecodedBlock = Arc<Vec<u8>>;

impl Weigh for DecodedBlock {
    fn weight(&self) -> usize {
        self.capacity() + ENTRY_COST
    }
}

/// Weight of an entry in addition to its content, in bytes: list node, hash table slot and `Arc`.
pub(super) const ENTRY_COST: usize = 128;

/// A least-recently-used cache with a limit on the total weight.
pub(super) struct ByteLru<K: Hash + Eq, V> {
    entries: LruCache<K, V>,
    bytes: usize,
    limit: usize,
}

impl<K: Hash + Eq, V: Weigh + Clone> ByteLru<K, V> {
    pub(super) fn new(limit: usize) -> Self {
        ByteLru { entries: LruCache::unbounded(), bytes: 0, limit }
    }

    /// Returns the value and marks it as used.
    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        self.entries.get(key).cloned()
    }

    /// Returns whether the value is cached, without marking it as used.
    pub(super) fn contains(&self, key: &K) -> bool {
        self.entries.contains(key)
    }

    /// Inserts a value, and evicts those that were not used for longest.
    pub(super) fn insert(&mut self, key: K, value: V) {
        let weight = value.weight();
        if weight > self.limit {
            return;
        }
        self.bytes += weight;
        if let Some(old) = self.entries.put(key, value) {
            self.bytes -= old.weight();
        }
        while self.bytes > self.limit
            && let Some((_, old)) = self.entries.pop_lru()
        {
            self.bytes -= old.weight();
        }
    }

    /// Removes the value.
    pub(super) fn remove(&mut self, key: &K) {
        if let Some(old) = self.entries.pop(key) {
            self.bytes -= old.weight();
        }
    }

    /// Returns the total weight.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A cache of blocks that are decoded on demand.
pub(super) struct BlockCache<K: Hash + Eq, V> {
    state: Mutex<CacheState<K, V>>,
    decodes: AtomicU64,
}

struct CacheState<K: Hash + Eq, V> {
    ready: ByteLru<K, V>,
    in_progress: HashMap<K, PendingDecode<V>>,
}

/// A decode in progress, as seen by the cache.
struct PendingDecode<V> {
    flight: Arc<Flight<V>>,
    waiters: usize,
}

/// A decode in progress, as seen by its waiters.
struct Flight<V> {
    outcome: Mutex<Option<DecodeOutcome<V>>>,
    landed: Condvar,
}

enum DecodeOutcome<V> {
    Decoded(Result<V, LayerError>),
    /// The decoder unwound: the waiters have to try again.
    Abandoned,
}

/// Result of looking up a block.
enum CacheLookup<V> {
    Ready(V),
    Wait(Arc<Flight<V>>),
    /// The caller has to decode the block and to complete this flight.
    Decode(Arc<Flight<V>>),
}

impl<K: Hash + Eq + Copy, V: Weigh + Clone> BlockCache<K, V> {
    pub(super) fn new(limit: usize) -> Self {
        BlockCache {
            state: Mutex::new(CacheState {
                ready: ByteLru::new(limit),
                in_progress: HashMap::new(),
            }),
            decodes: AtomicU64::new(0),
        }
    }

    /// Returns the number of blocks decoded since the cache was created.
    pub(super) fn decodes(&self) -> u64 {
        self.decodes.load(Ordering::Relaxed)
    }

    /// Returns the total weight of the cached blocks.
    pub(super) fn bytes(&self) -> usize {
        self.state.lock().ready.bytes()
    }

    /// Returns whether the block is cached.
    pub(super) fn contains(&self, key: &K) -> bool {
        self.state.lock().ready.contains(key)
    }

    /// Returns the block, from the cache or from `decode`.
    pub(super) fn get_or_decode(
        &self,
        key: K,
        decode: impl Fn() -> Result<V, LayerError>,
    ) -> Result<V, LayerError> {
        loop {
            let flight = match self.find(key) {
                CacheLookup::Ready(value) => return Ok(value),
                CacheLookup::Wait(flight) => match flight.wait() {
                    Some(result) => return result,
                    None => continue,
                },
                CacheLookup::Decode(flight) => flight,
            };
            let landing = Landing { cache: self, key, flight: Some(flight) };
            self.decodes.fetch_add(1, Ordering::Relaxed);
            let result = decode();
            landing.land(result.clone());
            return result;
        }
    }

    /// Fills `out` with the block. A cached block is copied and removed from the cache. Otherwise
    /// `decode` writes directly to `out`, and the block is cached, as converted by `keep`, only if
    /// other threads wait for it.
    pub(super) fn take_or_decode(
        &self,
        key: K,
        out: &mut [u8],
        copy: impl Fn(&V, &mut [u8]),
        decode: impl Fn(&mut [u8]) -> Result<(), LayerError>,
        keep: impl Fn(&[u8]) -> V,
    ) -> Result<(), LayerError> {
        loop {
            let flight = match self.find(key) {
                CacheLookup::Ready(value) => {
                    self.state.lock().ready.remove(&key);
                    copy(&value, out);
                    return Ok(());
                }
                CacheLookup::Wait(flight) => match flight.wait() {
                    Some(result) => {
                        self.state.lock().ready.remove(&key);
                        copy(&result?, out);
                        return Ok(());
                    }
                    None => continue,
                },
                CacheLookup::Decode(flight) => flight,
            };
            let landing = Landing { cache: self, key, flight: Some(flight) };
            self.decodes.fetch_add(1, Ordering::Relaxed);
            match decode(out) {
                Err(error) => {
                    landing.land(Err(error.clone()));
                    return Err(error);
                }
                Ok(()) => {
                    if let Some(landing) = landing.land_unless_awaited() {
                        landing.land(Ok(keep(out)));
                    }
                    return Ok(());
                }
            }
        }
    }

    fn find(&self, key: K) -> CacheLookup<V> {
        let mut state = self.state.lock();
        if let Some(value) = state.ready.get(&key) {
            return CacheLookup::Ready(value);
        }
        match state.in_progress.entry(key) {
            Entry::Occupied(mut pending) => {
                pending.get_mut().waiters += 1;
                CacheLookup::Wait(pending.get().flight.clone())
            }
            Entry::Vacant(vacant) => {
                let flight = Arc::new(Flight { outcome: Mutex::new(None), landed: Condvar::new() });
                vacant.insert(PendingDecode { flight: flight.clone(), waiters: 0 });
                CacheLookup::Decode(flight)
            }
        }
    }
}

impl<V: Clone> Flight<V> {
    /// Waits for the outcome; `None` if the decoder unwound.
    fn wait(&self) -> Option<Result<V, LayerError>> {
        let mut outcome = self.outcome.lock();
        loop {
            match &*outcome {
                Some(DecodeOutcome::Decoded(result)) => return Some(result.clone()),
                Some(DecodeOutcome::Abandoned) => return None,
                None => self.landed.wait(&mut outcome),
            }
        }
    }

    fn land(&self, outcome: DecodeOutcome<V>) {
        *self.outcome.lock() = Some(outcome);
        self.landed.notify_all();
    }
}

/// Guard of a decode in progress. If dropped without a result, the decode is abandoned.
struct Landing<'a, K: Hash + Eq + Copy, V: Weigh + Clone> {
    cache: &'a BlockCache<K, V>,
    key: K,
    flight: Option<Arc<Flight<V>>>,
}

impl<K: Hash + Eq + Copy, V: Weigh + Clone> Landing<'_, K, V> {
    fn land(mut self, result: Result<V, LayerError>) {
        let Some(flight) = self.flight.take() else { return };
        {
            let mut state = self.cache.state.lock();
            state.in_progress.remove(&self.key);
            if let Ok(value) = &result {
                state.ready.insert(self.key, value.clone());
            }
        }
        flight.land(DecodeOutcome::Decoded(result));
    }

    /// Ends the decode if no thread waits for it; otherwise returns the guard.
    fn land_unless_awaited(mut self) -> Option<Self> {
        let mut state = self.cache.state.lock();
        if state.in_progress.get(&self.key).is_some_and(|pending| pending.waiters > 0) {
            drop(state);
            return Some(self);
        }
        state.in_progress.remove(&self.key);
        drop(state);
        self.flight = None;
        None
    }
}

impl<K: Hash + Eq + Copy, V: Weigh + Clone> Drop for Landing<'_, K, V> {
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take() {
            self.cache.state.lock().in_progress.remove(&self.key);
            flight.land(DecodeOutcome::Abandoned);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    type Cache = BlockCache<u32, DecodedBlock>;

    fn block(len: usize) -> DecodedBlock {
        Arc::new(vec![7; len])
    }

    fn error() -> LayerError {
        LayerError::corrupt(&"image".into(), "damaged")
    }

    /// Waits until `count` threads wait for the decode of `key`.
    fn until_awaited(cache: &Cache, key: u32, count: usize) {
        while cache.state.lock().in_progress.get(&key).is_none_or(|p| p.waiters < count) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn cache_never_exceeds_its_limit() {
        let limit = 10 * (1000 + ENTRY_COST);
        let cache = Cache::new(limit);
        for key in 0..100 {
            let len = if key % 10 == 0 { limit + 1 } else { 1000 };
            cache.get_or_decode(key, || Ok(block(len))).unwrap();
            assert!(cache.bytes() <= limit);
        }
        assert!((90..=99).filter(|key| cache.contains(key)).count() >= 9);
        assert!(!cache.contains(&90), "heavier than the limit");
        assert!(!cache.contains(&1));
    }

    #[test]
    fn least_recently_used_block_is_evicted_first() {
        let cache = Cache::new(3 * (100 + ENTRY_COST));
        for key in [1, 2, 3, 1, 4] {
            cache.get_or_decode(key, || Ok(block(100))).unwrap();
        }
        assert_eq!([1, 2, 3, 4].map(|key| cache.contains(&key)), [true, false, true, true]);
    }

    #[test]
    fn concurrent_readers_share_one_decode_and_errors_are_not_cached() {
        let cache = Cache::new(1 << 20);
        std::thread::scope(|scope| {
            let (decoder, waiter) = (&cache, &cache);
            scope.spawn(move || {
                let result = decoder.get_or_decode(1, || {
                    until_awaited(decoder, 1, 3);
                    Err(error())
                });
                assert!(result.is_err());
            });
            while !cache.state.lock().in_progress.contains_key(&1) {
                std::thread::yield_now();
            }
            for _ in 0..3 {
                scope.spawn(move || {
                    let result = waiter.get_or_decode(1, || panic!("a second decode"));
                    assert_eq!(result.unwrap_err().to_string(), error().to_string());
                });
            }
        });
        assert_eq!(cache.decodes(), 1);
        assert!(cache.get_or_decode(1, || Ok(block(1))).is_ok());
    }

    #[test]
    fn block_decoded_into_a_buffer_is_cached_only_for_waiters() {
        let cache = Cache::new(1 << 20);
        let read = |out: &mut [u8], waiters| {
            cache.take_or_decode(
                1,
                out,
                |block, out| out.copy_from_slice(block),
                |out| {
                    if waiters > 0 {
                        until_awaited(&cache, 1, waiters);
                    }
                    out.fill(9);
                    Ok(())
                },
                |decoded| Arc::new(decoded.to_vec()),
            )
        };
        let mut out = [0; 10];
        read(&mut out, 0).unwrap();
        assert!(!cache.contains(&1) && out == [9; 10]);
        std::thread::scope(|scope| {
            scope.spawn(|| read(&mut [0; 10], 2).unwrap());
            while !cache.state.lock().in_progress.contains_key(&1) {
                std::thread::yield_now();
            }
            scope.spawn(|| {
                let mut out = [0; 10];
                read(&mut out, 0).unwrap();
                assert_eq!(out, [9; 10]);
            });
            scope.spawn(|| {
                assert_eq!(**cache.get_or_decode(1, || unreachable!()).unwrap(), [9; 10])
            });
        });
        assert_eq!(cache.decodes(), 2);
        // The waiter for the whole block has removed it.
        assert!(!cache.contains(&1));
    }

    #[test]
    fn prefetched_block_is_removed_when_read_whole() {
        let cache = Cache::new(1 << 20);
        cache.get_or_decode(1, || Ok(block(10))).unwrap();
        let mut out = [0; 10];
        cache
            .take_or_decode(
                1,
                &mut out,
                |block, out| out.copy_from_slice(block),
                |_| unreachable!("it is cached"),
                |_| unreachable!(),
            )
            .unwrap();
        assert_eq!(out, [7; 10]);
        assert_eq!((cache.contains(&1), cache.bytes()), (false, 0));
    }

    #[test]
    fn waiter_takes_over_from_a_panicking_decoder() {
        let cache = Cache::new(1 << 20);
        let panicked = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let decoder = scope.spawn(|| {
                let _ = cache.get_or_decode(1, || {
                    until_awaited(&cache, 1, 1);
                    panicked.store(true, Ordering::SeqCst);
                    std::panic::resume_unwind(Box::new("unwinds"));
                });
            });
            while !cache.state.lock().in_progress.contains_key(&1) {
                std::thread::yield_now();
            }
            let block = cache.get_or_decode(1, || {
                assert!(panicked.load(Ordering::SeqCst));
                Ok(block(3))
            });
            assert_eq!(**block.unwrap(), [7; 3]);
            assert!(decoder.join().is_err());
        });
    }
}

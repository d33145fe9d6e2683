//! Caches that are bounded in bytes, and the rule that a block is decoded by one thread at a time.
//!
//! Invariants:
//! - The weights of what a cache holds never sum to more than its limit; what alone is heavier
//!   than the limit is not kept.
//! - For each key at most one decode is under way. Who asks meanwhile waits for its outcome, and
//!   gets it, error or not. Errors are not kept: the next asker tries again.
//! - No lock is held while decoding.
//! - A decoder that unwinds leaves nobody waiting: one of the waiters takes over.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;
use parking_lot::{Condvar, Mutex};

use crate::error::LayerError;

/// What a cached value costs.
pub(super) trait Weigh {
    /// Bytes of memory, about.
    fn weight(&self) -> usize;
}

/// A decoded block.
pub(super) type Block = Arc<Vec<u8>>;

impl Weigh for Block {
    fn weight(&self) -> usize {
        self.capacity() + ENTRY_COST
    }
}

/// What an entry costs beside its content: the list node, the hash table's slot, the Arc.
pub(super) const ENTRY_COST: usize = 128;

/// A least-recently-used cache of values that weigh no more than a limit together.
pub(super) struct ByteLru<K: Hash + Eq, V> {
    entries: LruCache<K, V>,
    bytes: usize,
    limit: usize,
}

impl<K: Hash + Eq, V: Weigh + Clone> ByteLru<K, V> {
    pub(super) fn new(limit: usize) -> Self {
        ByteLru { entries: LruCache::unbounded(), bytes: 0, limit }
    }

    /// The value, marked as used.
    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        self.entries.get(key).cloned()
    }

    /// Whether the value is there, unmarked.
    pub(super) fn contains(&self, key: &K) -> bool {
        self.entries.contains(key)
    }

    /// Keeps the value, at the cost of those used longest ago.
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

    /// Gives the value up.
    pub(super) fn remove(&mut self, key: &K) {
        if let Some(old) = self.entries.pop(key) {
            self.bytes -= old.weight();
        }
    }

    /// What the values weigh together.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A cache of blocks that decodes what it does not have.
pub(super) struct BlockCache<K: Hash + Eq, V> {
    state: Mutex<State<K, V>>,
    decodes: AtomicU64,
}

struct State<K: Hash + Eq, V> {
    ready: ByteLru<K, V>,
    under_way: HashMap<K, Pending<V>>,
}

/// A decode under way, as the cache knows it.
struct Pending<V> {
    flight: Arc<Flight<V>>,
    waiters: usize,
}

/// A decode under way, as its waiters know it.
struct Flight<V> {
    outcome: Mutex<Option<Outcome<V>>>,
    landed: Condvar,
}

enum Outcome<V> {
    Decoded(Result<V, LayerError>),
    /// The decoder unwound: try again.
    Abandoned,
}

/// What the cache can say at once.
enum Found<V> {
    Ready(V),
    Wait(Arc<Flight<V>>),
    /// Nobody has it: the asker decodes it, and says so through this flight.
    Decode(Arc<Flight<V>>),
}

impl<K: Hash + Eq + Copy, V: Weigh + Clone> BlockCache<K, V> {
    pub(super) fn new(limit: usize) -> Self {
        BlockCache {
            state: Mutex::new(State { ready: ByteLru::new(limit), under_way: HashMap::new() }),
            decodes: AtomicU64::new(0),
        }
    }

    /// How many blocks were decoded since the cache was made.
    pub(super) fn decodes(&self) -> u64 {
        self.decodes.load(Ordering::Relaxed)
    }

    /// What the cached blocks weigh.
    pub(super) fn bytes(&self) -> usize {
        self.state.lock().ready.bytes()
    }

    /// Whether the block is in the cache.
    pub(super) fn contains(&self, key: &K) -> bool {
        self.state.lock().ready.contains(key)
    }

    /// The block, from the cache or from `decode`.
    pub(super) fn get_or_decode(
        &self,
        key: K,
        decode: impl Fn() -> Result<V, LayerError>,
    ) -> Result<V, LayerError> {
        loop {
            let flight = match self.find(key) {
                Found::Ready(value) => return Ok(value),
                Found::Wait(flight) => match flight.wait() {
                    Some(result) => return result,
                    None => continue,
                },
                Found::Decode(flight) => flight,
            };
            let landing = Landing { cache: self, key, flight: Some(flight) };
            self.decodes.fetch_add(1, Ordering::Relaxed);
            let result = decode();
            landing.land(result.clone());
            return result;
        }
    }

    /// The block in `out`: copied from the cache, which gives it up, or decoded right into it by
    /// `decode`; then it is kept only if somebody waited for it, in the form that `keep` gives it.
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
                Found::Ready(value) => {
                    self.state.lock().ready.remove(&key);
                    copy(&value, out);
                    return Ok(());
                }
                Found::Wait(flight) => match flight.wait() {
                    Some(result) => {
                        self.state.lock().ready.remove(&key);
                        copy(&result?, out);
                        return Ok(());
                    }
                    None => continue,
                },
                Found::Decode(flight) => flight,
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

    fn find(&self, key: K) -> Found<V> {
        let mut state = self.state.lock();
        if let Some(value) = state.ready.get(&key) {
            return Found::Ready(value);
        }
        match state.under_way.entry(key) {
            Entry::Occupied(mut pending) => {
                pending.get_mut().waiters += 1;
                Found::Wait(pending.get().flight.clone())
            }
            Entry::Vacant(vacant) => {
                let flight = Arc::new(Flight { outcome: Mutex::new(None), landed: Condvar::new() });
                vacant.insert(Pending { flight: flight.clone(), waiters: 0 });
                Found::Decode(flight)
            }
        }
    }
}

impl<V: Clone> Flight<V> {
    /// The outcome, once there is one; `None` when the decoder gave up.
    fn wait(&self) -> Option<Result<V, LayerError>> {
        let mut outcome = self.outcome.lock();
        loop {
            match &*outcome {
                Some(Outcome::Decoded(result)) => return Some(result.clone()),
                Some(Outcome::Abandoned) => return None,
                None => self.landed.wait(&mut outcome),
            }
        }
    }

    fn land(&self, outcome: Outcome<V>) {
        *self.outcome.lock() = Some(outcome);
        self.landed.notify_all();
    }
}

/// The duty to end a decode that is under way. Dropped without having landed, it is abandoned.
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
            state.under_way.remove(&self.key);
            if let Ok(value) = &result {
                state.ready.insert(self.key, value.clone());
            }
        }
        flight.land(Outcome::Decoded(result));
    }

    /// Ends the decode if nobody waits for it, else gives the duty back.
    fn land_unless_awaited(mut self) -> Option<Self> {
        let mut state = self.cache.state.lock();
        if state.under_way.get(&self.key).is_some_and(|pending| pending.waiters > 0) {
            drop(state);
            return Some(self);
        }
        state.under_way.remove(&self.key);
        drop(state);
        self.flight = None;
        None
    }
}

impl<K: Hash + Eq + Copy, V: Weigh + Clone> Drop for Landing<'_, K, V> {
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take() {
            self.cache.state.lock().under_way.remove(&self.key);
            flight.land(Outcome::Abandoned);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    type Cache = BlockCache<u32, Block>;

    fn block(len: usize) -> Block {
        Arc::new(vec![7; len])
    }

    fn error() -> LayerError {
        LayerError::corrupt(&"image".into(), "damaged")
    }

    /// Returns once `count` threads wait for the decode of `key`.
    fn until_awaited(cache: &Cache, key: u32, count: usize) {
        while cache.state.lock().under_way.get(&key).is_none_or(|p| p.waiters < count) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_cache_never_holds_more_than_its_limit() {
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
    fn what_was_used_last_stays_longest() {
        let cache = Cache::new(3 * (100 + ENTRY_COST));
        for key in [1, 2, 3, 1, 4] {
            cache.get_or_decode(key, || Ok(block(100))).unwrap();
        }
        assert_eq!([1, 2, 3, 4].map(|key| cache.contains(&key)), [true, false, true, true]);
    }

    #[test]
    fn who_asks_during_a_decode_gets_its_outcome_and_errors_are_not_kept() {
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
            while !cache.state.lock().under_way.contains_key(&1) {
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
    fn a_decode_into_a_buffer_is_shared_with_who_waits_and_else_not_kept() {
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
            while !cache.state.lock().under_way.contains_key(&1) {
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
        // Who waited for the whole block has taken it.
        assert!(!cache.contains(&1));
    }

    #[test]
    fn a_block_that_was_decoded_ahead_leaves_when_it_is_read_whole() {
        let cache = Cache::new(1 << 20);
        cache.get_or_decode(1, || Ok(block(10))).unwrap();
        let mut out = [0; 10];
        cache
            .take_or_decode(
                1,
                &mut out,
                |block, out| out.copy_from_slice(block),
                |_| unreachable!("it is there"),
                |_| unreachable!(),
            )
            .unwrap();
        assert_eq!(out, [7; 10]);
        assert_eq!((cache.contains(&1), cache.bytes()), (false, 0));
    }

    #[test]
    fn a_decoder_that_panics_leaves_nobody_waiting() {
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
            while !cache.state.lock().under_way.contains_key(&1) {
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

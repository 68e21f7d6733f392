//! What was read from files, and is read again: new content takes the place of the old, content that can't be used does not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use ring::digest::{Context, SHA256};

use super::AccessError;

/// What files say, and a digest of all their bytes, to know whether they have changed.
pub(super) struct Content<T> {
    value: T,
    digest: Vec<u8>,
}

impl<T> Content<T> {
    pub(super) fn new(value: T, files: &[&[u8]]) -> Self {
        let mut digest = Context::new(&SHA256);
        for file in files {
            digest.update(&file.len().to_le_bytes());
            digest.update(file);
        }
        Self { value, digest: digest.finish().as_ref().to_owned() }
    }

    #[cfg(test)]
    pub(super) fn into_value(self) -> T {
        self.value
    }
}

type Read<T> = dyn Fn() -> Result<Content<T>, AccessError> + Send + Sync;

/// The last good content of files.
pub(super) struct Kept<T> {
    read: Box<Read<T>>,
    now: RwLock<Arc<T>>,
    seen: Mutex<Seen>,
}

/// What was seen last, so that nothing is said twice.
struct Seen {
    digest: Vec<u8>,
    trouble: Option<String>,
}

impl<T> Kept<T> {
    /// Reads for the first time.
    ///
    /// # Errors
    /// As `read`.
    pub(super) fn read(read: impl Fn() -> Result<Content<T>, AccessError> + Send + Sync + 'static) -> Result<Self, AccessError> {
        let Content { value, digest } = read()?;
        let seen = Mutex::new(Seen { digest, trouble: None });
        Ok(Self { read: Box::new(read), now: RwLock::new(Arc::new(value)), seen })
    }

    pub(super) fn current(&self) -> Arc<T> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads again.
    pub(super) fn renew(&self) {
        let mut seen = self.seen();
        match (self.read)() {
            Ok(Content { digest, .. }) if digest == seen.digest => seen.trouble = None,
            Ok(Content { value, digest }) => {
                *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                *seen = Seen { digest, trouble: None };
                tracing::info!("files of [http] have changed; what they say now holds");
            }
            Err(error) => {
                let trouble = error.to_string();
                if seen.trouble.as_ref() != Some(&trouble) {
                    tracing::warn!("{trouble}; what was read before still holds");
                }
                seen.trouble = Some(trouble);
            }
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

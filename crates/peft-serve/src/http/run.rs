//! Listening, and ending.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::{HttpConfig, router};
use crate::engine::Handle;

/// How long streams have to send their last words.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often the server looks whether requests are still open.
const LOOK: Duration = Duration::from_millis(20);

/// A server that listens.
#[derive(Debug)]
pub struct Listening {
    listener: TcpListener,
    router: Router,
    engine: Handle,
    timeout: Duration,
}

impl Listening {
    /// Listens at `address` for requests to `engine`, whose base is called `base`.
    ///
    /// # Errors
    /// An address that cannot be listened at.
    pub async fn at(address: &str, engine: Handle, base: &str, config: HttpConfig) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let timeout = config.shutdown_timeout;
        Ok(Self { listener, router: router(engine.clone(), base, config), engine, timeout })
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// An address that the system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `end` comes. Then no new requests are taken, those that are open have a while to end, and what is left
    /// of them is told that the server ends.
    ///
    /// # Errors
    /// An error of the system while it listens or accepts connections.
    pub async fn run(self, end: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let Self { listener, router, engine, timeout: patience } = self;
        let (closing, closed) = oneshot::channel::<()>();
        let served = axum::serve(listener, router).with_graceful_shutdown(async {
            // Either way the server closes.
            let _ = closed.await;
        });
        let mut serving = tokio::spawn(async move { served.await });
        tokio::select! {
            done = &mut serving => return done.unwrap_or_else(|error| Err(io::Error::other(error))),
            () = end => {}
        }
        engine.drain();
        let until = Instant::now() + patience;
        while engine.open() > 0 && Instant::now() < until {
            sleep(LOOK).await;
        }
        engine.abort();
        let _ = closing.send(());
        // A reader that does not read keeps nobody.
        let _ = timeout(LAST_WORDS, &mut serving).await;
        serving.abort();
        Ok(())
    }
}

/// [`Listening::run`] on a runtime of its own, until the process is told to end (SIGTERM, SIGINT). `ready` is told the
/// address.
///
/// # Errors
/// An address that cannot be listened at, and what the system refuses.
pub fn serve(
    address: &str,
    engine: &Handle,
    base: &str,
    config: HttpConfig,
    ready: impl FnOnce(SocketAddr),
) -> io::Result<()> {
    on_runtime(address, engine, base, config, ready, signals)
}

/// As [`serve`], until `end` returns, which has a thread of its own.
///
/// # Errors
/// As [`serve`].
pub fn serve_until(
    address: &str,
    engine: &Handle,
    base: &str,
    config: HttpConfig,
    ready: impl FnOnce(SocketAddr),
    end: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let ended = || {
        let ended = tokio::task::spawn_blocking(end);
        Ok(async { drop(ended.await) })
    };
    on_runtime(address, engine, base, config, ready, ended)
}

fn on_runtime<F: Future<Output = ()> + Send + 'static>(
    address: &str,
    engine: &Handle,
    base: &str,
    config: HttpConfig,
    ready: impl FnOnce(SocketAddr),
    end: impl FnOnce() -> io::Result<F>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let listening = Listening::at(address, engine.clone(), base, config).await?;
        let end = end()?;
        ready(listening.address()?);
        listening.run(end).await
    });
    runtime.shutdown_timeout(LAST_WORDS);
    done
}

#[cfg(unix)]
fn signals() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn signals() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}

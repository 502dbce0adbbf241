//! A connection that goes on on another runtime once its answer is one that may wait.

use super::stream::Activity;
use std::pin::Pin;
use std::task::Poll;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// An answer with this among its extensions may wait while there is something better to do.
#[derive(Clone, Copy, Debug)]
pub struct MayWait;

/// Drives the connection here, until it says by its activity that it may wait, and then there. Dropping this ends it
/// wherever it is.
pub async fn drive(
    mut connection: Pin<Box<dyn Future<Output = ()> + Send>>,
    activity: &Activity,
    there: impl Fn() -> Option<Handle>,
) {
    let ended = std::future::poll_fn(|context| match connection.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(true),
        Poll::Pending if activity.may_wait() => Poll::Ready(false),
        Poll::Pending => Poll::Pending,
    });
    if ended.await {
        return;
    }
    match there() {
        Some(runtime) => {
            let mut moved = Moved(runtime.spawn(connection));
            if let Err(error) = (&mut moved.0).await
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        }
        None => connection.await,
    }
}

struct Moved(JoinHandle<()>);

impl Drop for Moved {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leisure::Leisure;
    use std::sync::Arc;
    use std::thread;
    use tokio::sync::oneshot;
    use tokio::task::yield_now;

    #[tokio::test]
    async fn a_connection_moves_when_it_may_wait_and_ends_with_its_task() {
        let (leisure, activity) = (Arc::new(Leisure::default()), Arc::new(Activity::default()));
        let (tell, told) = oneshot::channel();
        let connection = {
            let activity = activity.clone();
            Box::pin(async move {
                yield_now().await;
                let before = thread::current().id();
                activity.let_wait();
                yield_now().await;
                let moved = thread::current().id() != before;
                let _ = tell.send((moved, thread::current().name().map(String::from)));
                std::future::pending::<()>().await;
            })
        };
        let driving = tokio::spawn({
            let (leisure, activity) = (leisure.clone(), activity.clone());
            async move { drive(connection, &activity, || leisure.runtime()).await }
        });
        assert_eq!(told.await.unwrap(), (true, Some("watches".into())));
        // What the connection holds goes with it.
        assert_eq!(Arc::strong_count(&activity), 3);
        driving.abort();
        while Arc::strong_count(&activity) > 1 {
            yield_now().await;
        }
    }
}

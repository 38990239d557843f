//! Delivery as a whole.

use std::sync::Arc;

use super::*;
use crate::queue::{QueueOptions, RealFilesystem};

#[tokio::test]
async fn the_cursor_of_a_sink_that_is_gone_is_forgotten_and_the_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Queue::open(dir.path(), QueueOptions::on_any_disk(), Arc::new(RealFilesystem)).unwrap();
    let queue = open();
    queue.register("before", None);
    queue.register("store", None);
    queue.close().await;
    let queue = open();
    assert_eq!(queue.cursors(), ["before", "store"]);
    forget_all_but(&queue, &["store"]);
    queue.close().await;
    assert_eq!(open().cursors(), ["store"]);
}

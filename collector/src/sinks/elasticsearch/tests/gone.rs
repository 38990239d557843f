//! A stream that is deleted while the sink runs.

use super::*;

/// A sink in front of a server, and its queue.
pub struct World {
    pub dir: tempfile::TempDir,
    pub server: Arc<StdMutex<Server>>,
    pub queue: Queue,
    pub lane: lane::Lane,
    _stop: watch::Sender<bool>,
}

impl World {
    pub async fn new(server: Server) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Arc::new(StdMutex::new(Server { random: 1, ..server }));
        let port = serve(Arc::clone(&server)).await;
        let queue_options = QueueOptions::on_any_disk();
        let queue = Queue::open(&dir.path().join("queue"), queue_options, Arc::new(RealFilesystem)).unwrap();
        let (stop, stops) = watch::channel(false);
        let shelf = DeadLetters::open(&dir.path().join("dead-letter"), 8 << 20).unwrap().shelf("es");
        let es = Elasticsearch::build(&sink(port), dir.path()).unwrap();
        let heartbeat = Health::new().heartbeat("es", Duration::from_secs(1));
        let lane = lane::start(&queue, es, options(), shelf, stops, heartbeat);
        Self { dir, server, queue, lane, _stop: stop }
    }

    /// Queues these lines, from this number on, in requests of ten.
    pub async fn send(&self, first: usize, texts: &[String]) {
        for (part, texts) in texts.chunks(10).enumerate() {
            let line = |(n, text): (usize, &String)| {
                let n = (first + part * 10 + n) as u64;
                Line::new(1_700_000_000_000_000_000 + n, 1, n, text)
            };
            let lines: Vec<Line> = texts.iter().enumerate().map(line).collect();
            self.queue.append(frame(&lines, false)).await.unwrap();
        }
    }

    /// Waits until all that is queued is settled.
    pub async fn settled(&self) {
        let end = self.queue.status().end;
        let mut settled = self.lane.settled();
        tokio::time::timeout(Duration::from_secs(120), settled.wait_for(|settled| *settled >= end))
            .await
            .unwrap_or_else(|_| {
                panic!("{:?} {:?}", self.lane.numbers().retries(), self.lane.numbers().blocked())
            })
            .unwrap();
    }

    pub fn outcome(&self) -> (Vec<String>, Vec<String>) {
        outcome(&self.server, self.dir.path().join("dead-letter/es"))
    }
}

fn texts(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{name} {n:02}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_deleted_at_run_time_is_made_again_and_nothing_is_held_for_ever() {
    let world = World::new(Server::default()).await;
    world.send(0, &texts("before", 30)).await;
    world.settled().await;
    assert_eq!(world.outcome(), (texts("before", 30), Vec::new()));
    {
        let mut server = world.server.lock().unwrap();
        (server.indices, server.template) = (Vec::new(), None);
    }
    let after = texts("after", 60);
    world.send(30, &after).await;
    world.settled().await;
    assert_eq!(world.outcome(), (after, Vec::new()));
    assert!(world.server.lock().unwrap().template.is_some(), "its template is there again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lands_in_a_plain_index_of_the_streams_name_is_not_delivered() {
    is_not_delivered_into_a_plain_index(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_a_plain_index_of_the_streams_name_already_is_no_duplicate() {
    is_not_delivered_into_a_plain_index(true).await;
}

async fn is_not_delivered_into_a_plain_index(plain_knows: bool) {
    let world = World::new(Server::default()).await;
    world.send(0, &texts("before", 30)).await;
    world.settled().await;
    let settled = || {
        let numbers = world.lane.numbers();
        [&numbers.delivered, &numbers.duplicate].map(|count| count.load(Ordering::Relaxed))
    };
    let before = settled();
    {
        let mut server = world.server.lock().unwrap();
        (server.indices, server.template, server.plain) = (Vec::new(), None, Some(HashMap::new()));
        server.plain_knows = plain_knows;
    }
    let after = texts("after", 60);
    world.send(30, &after).await;
    let held = async {
        while world.lane.numbers().blocked().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), held).await.expect("it says that it is held");
    assert_eq!(settled(), before);
    // Somebody deletes the index, as he was told.
    world.server.lock().unwrap().plain = None;
    world.settled().await;
    assert_eq!(world.outcome(), (after, Vec::new()));
}

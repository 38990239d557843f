//! Names with several addresses, and addresses where something else answers.

use super::*;

/// What the exporter says of a receiver that it cannot talk to.
async fn said_of(config: &Export) -> String {
    let exporter = Exporter::build(config, TIMING).unwrap();
    let request = exporter.delivery(batch(0)).ok().unwrap();
    let request = request.shared.client.target.request(&request.packed, false);
    exporter.shared.client.pool.call(&request, TIMING.deadline).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_receiver_of_the_other_protocol_is_said_to_be_one() {
    sonde_daemon::tls::install();
    let grpc = Receiver::start(Protocol::Grpc, vec![]).await.address;
    let http = Receiver::start(Protocol::Http, vec![]).await.address;
    let said = said_of(&config(http, Protocol::Grpc, Compression::None)).await;
    assert!(said.contains("an OTLP/HTTP port needs protocol: http"), "{said}");
    let said = said_of(&config(grpc, Protocol::Http, Compression::None)).await;
    assert!(said.contains("a gRPC port needs protocol: grpc"), "{said}");
    let tls = config::Tls { insecure_skip_verify: true, ..config::Tls::default() };
    let plain = Export {
        endpoint: format!("https://{http}"),
        tls,
        ..config(http, Protocol::Http, Compression::None)
    };
    let said = said_of(&plain).await;
    assert!(said.contains("does not speak TLS here"), "{said}");
}

/// A name whose addresses a test changes.
#[derive(Clone, Default)]
struct Zone(Arc<Mutex<Vec<SocketAddr>>>);

impl names::Names for Zone {
    fn look_up(&self, host: &str, _: u16) -> names::Found {
        assert_eq!(host, "collectors.test");
        let found = self.0.lock().unwrap().clone();
        Box::pin(async move { Ok(found) })
    }
}

#[tokio::test]
async fn all_addresses_behind_the_name_are_used_and_what_fails_at_one_goes_to_another_at_once() {
    for protocol in BOTH {
        // The second breaks the connection of its first request, and then works.
        let scripts = [vec![], vec![Act::Drop], vec![]];
        let mut receivers = Vec::new();
        for script in scripts {
            receivers.push(Receiver::start(protocol, script).await);
        }
        // One more that nobody listens on: a port that the system gives to nobody, as it would one that was bound and let go of.
        let closed = SocketAddr::from(([127, 0, 0, 1], 1));
        let addresses = receivers.iter().map(|one| one.address).chain([closed]);
        let zone = Zone(Arc::new(Mutex::new(addresses.collect())));
        let config = Export {
            endpoint: "http://collectors.test:4317".to_owned(),
            ..config(closed, protocol, Compression::None)
        };
        let exporter = Exporter::with_names(&config, TIMING, Box::new(zone)).unwrap();
        let (sender, batches) = mpsc::channel(64);
        for id in 0..40 {
            sender.try_send(batch(id)).unwrap();
        }
        drop(sender);
        let settled = Mutex::new(0);
        let (_trigger, shutdown) = shutdown::channel();
        let settle = |one: Settlement| {
            assert_eq!(one.outcome, TAKEN, "{protocol:?}");
            *settled.lock().unwrap() += 1;
        };
        let run = exporter.run(batches, settle, shutdown, || {});
        tokio::time::timeout(Duration::from_secs(20), run).await.expect("the exporter hangs");
        assert_eq!(settled.into_inner().unwrap(), 40);
        let seen: Vec<usize> = receivers.iter().map(|one| one.seen().len()).collect();
        // What broke was sent again and says so: one request, or on HTTP/2 all that were under way on that connection. On a busy
        // machine the address that failed has its turn again before all is sent, and takes some.
        let resent = receivers.iter().flat_map(Receiver::seen).filter(Seen::resend).count();
        assert!(resent >= 1 && seen.iter().sum::<usize>() > 40, "{resent} of {seen:?}");
        assert!(seen[0] >= 10 && seen[2] >= 10 && seen[1] >= 1, "spread: {seen:?}");
    }
}

#[tokio::test]
async fn an_address_that_comes_back_is_used_again_and_one_that_is_gone_from_the_name_no_more() {
    let (first, second) =
        (Receiver::start(Protocol::Grpc, vec![]).await, Receiver::start(Protocol::Grpc, vec![]).await);
    let zone = Zone(Arc::new(Mutex::new(vec![first.address, second.address])));
    let endpoint = "http://collectors.test".to_owned();
    let config = Export { endpoint, ..config(first.address, Protocol::Grpc, Compression::None) };
    let exporter = Exporter::with_names(&config, TIMING, Box::new(zone.clone())).unwrap();
    let delivery = exporter.delivery(batch(0)).ok().unwrap();
    let request = delivery.shared.client.target.request(&delivery.packed, false);
    let pool = &exporter.shared.client.pool;
    let used = async || pool.call(&request, TIMING.deadline).await.unwrap().0;
    let mut turns = vec![used().await, used().await];
    turns.sort_unstable();
    let mut both = vec![first.address, second.address];
    both.sort_unstable();
    assert_eq!(turns, both);

    pool.avoid(second.address);
    assert_eq!([used().await, used().await, used().await], [first.address; 3]);
    let back = tokio::time::timeout(Duration::from_secs(10), async {
        while used().await != second.address {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    back.await.expect("its time never comes");

    zone.0.lock().unwrap().retain(|address| *address == first.address);
    pool.refresh().await.unwrap();
    assert_eq!([used().await, used().await, used().await], [first.address; 3]);
}

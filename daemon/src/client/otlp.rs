//! An OTLP receiver: one request, packed, sent, and its answer understood.
//!
//! What is sent again, held or given up is its caller's: the agent's export, and the collector's sink of type otlp.
//!
//! Memory: one zstd context, and a buffer that grows to the bound of the largest request that is packed here.

pub mod ladder;
pub mod packer;
mod target;
pub mod verdict;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sonde_wire::answer::Answer;

pub use self::target::{Service, Target, TargetError};

use self::ladder::Ladder;
use self::packer::{Encoding, PackError, Packed, Packer};
use self::verdict::{EncodingDoubt, Verdict};
use super::dial::Dialer;
use super::endpoint::{Endpoint, EndpointError};
use super::names::Names;
use super::pool::{CallError, Pool, Version};
use crate::config::Headers;
use crate::secret::Token;
use crate::tls::{self, ClientOptions, TlsError};

/// Default ports of OTLP: gRPC and HTTP.
const PORTS: (u16, u16) = (4317, 4318);
/// An answer holds a few words; more than this is not read.
const ANSWER_BYTES: usize = 64 << 10;
/// The code of a connection that could not be made, or broke.
pub const CONNECTION: &str = "connection";

/// Headers that a request has anyway: nobody else sets them.
pub const OWN_HEADERS: [&str; 9] = [
    "content-type",
    "content-length",
    "content-encoding",
    "grpc-encoding",
    "grpc-timeout",
    "host",
    "te",
    "transfer-encoding",
    "x-sonde-resend",
];

/// OTLP transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// OTLP/gRPC.
    #[default]
    Grpc,
    /// OTLP/HTTP, binary protobuf.
    Http,
}

/// Compression of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// zstd, and gzip or none where the receiver refuses it.
    #[default]
    Auto,
    /// zstd level 1.
    Zstd,
    /// gzip.
    Gzip,
    /// None.
    None,
}

impl Protocol {
    /// Reads an endpoint, with OTLP's default port.
    pub fn endpoint(self, url: &str) -> Result<Endpoint, EndpointError> {
        let port = match self {
            Self::Grpc => PORTS.0,
            Self::Http => PORTS.1,
        };
        Endpoint::parse(url, (port, port))
    }

    /// The version of HTTP under it.
    pub fn version(self) -> Version {
        match self {
            Self::Grpc => Version::Http2,
            Self::Http => Version::Http1,
        }
    }

    /// What is offered in a TLS handshake.
    pub fn alpn(self) -> Vec<u8> {
        match self {
            Self::Grpc => tls::H2.to_vec(),
            Self::Http => tls::HTTP1.to_vec(),
        }
    }
}

/// What a receiver is, and how it is spoken to.
pub struct Options {
    /// Where it is, see [`Protocol::endpoint`].
    pub endpoint: Endpoint,
    /// Transport.
    pub protocol: Protocol,
    /// Logs, metrics or traces.
    pub service: Service,
    /// The best that is used.
    pub compression: Compression,
    /// Sent with each request.
    pub headers: Headers,
    /// Bearer token.
    pub token: Option<Token>,
    /// Used where the endpoint is https.
    pub tls: ClientOptions,
    /// Who we say we are.
    pub user_agent: &'static str,
    /// Addresses in use at a time.
    pub spread: usize,
    /// From sending a request to the end of its answer.
    pub deadline: Duration,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// TLS files.
    #[error("tls: {0}")]
    Tls(#[from] TlsError),
    /// Headers or path.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// zstd has no memory.
    #[error("no compressor: {0}")]
    Compressor(#[from] io::Error),
}

/// Is told of each request and each answer. `()` does not listen.
pub trait Watch {
    /// A body goes out.
    fn sent(&self, _encoding: Encoding, _body_bytes: usize) {}
    /// An answer came, or [`CONNECTION`].
    fn answered(&self, _code: &str) {}
}

impl Watch for () {}

/// Sends requests to one service of a receiver.
pub struct Client {
    /// Its connections.
    pub pool: Arc<Pool>,
    /// What stands before each body.
    pub target: Target,
    protocol: Protocol,
    ladder: Arc<Mutex<Ladder>>,
    packer: Arc<Mutex<Packer>>,
    deadline: Duration,
}

impl Client {
    /// Reads TLS files; connects to nothing.
    pub fn new(mut options: Options, names: Box<dyn Names>) -> Result<Self, OtlpError> {
        let protocol = options.protocol;
        let target = Target::new(&mut options)?;
        let tls = if options.endpoint.tls { Some(tls::Client::new(options.tls)?) } else { None };
        let dialer = Dialer::new(options.endpoint, tls)?;
        Ok(Self {
            pool: Pool::new(dialer, names, protocol.version(), options.spread, ANSWER_BYTES),
            target,
            protocol,
            ladder: Arc::new(Mutex::new(Ladder::new(options.compression))),
            packer: Arc::new(Mutex::new(Packer::new(protocol == Protocol::Grpc)?)),
            deadline: options.deadline,
        })
    }

    /// Sends to another service of the same receiver, over the same connections and with the same compressor; what one
    /// learns of the receiver's compression the other knows.
    pub fn beside(&self, service: Service) -> Result<Self, OtlpError> {
        Ok(Self {
            pool: Arc::clone(&self.pool),
            target: self.target.beside(service)?,
            protocol: self.protocol,
            ladder: Arc::clone(&self.ladder),
            packer: Arc::clone(&self.packer),
            deadline: self.deadline,
        })
    }

    /// What the next request is packed with.
    pub fn encoding(&self) -> Encoding {
        self.ladder().encoding()
    }

    /// Compresses an encoded request.
    pub fn pack(&self, raw: &Bytes) -> Result<Packed, PackError> {
        let encoding = self.encoding();
        self.packer().pack(raw, encoding)
    }

    /// A request that somebody else compressed, as it is.
    pub fn packed(&self, message: Bytes, encoding: Encoding, raw_bytes: usize) -> Result<Packed, PackError> {
        self.packer().frame(message, encoding, raw_bytes)
    }

    /// Sends the request, and in simpler encodings too while its encoding may be why it is refused. While a receiver
    /// goes on holding us a `probe` is one request: the next probe tries the next encoding. `resend` says that records
    /// in it may have been sent before, and is set where that is so from now on.
    pub async fn attempt(
        &self,
        packed: &mut Packed,
        resend: &mut bool,
        probe: bool,
        watch: &impl Watch,
    ) -> Result<Verdict, CallError> {
        let used = self.encoding();
        if used < packed.encoding
            && let Some(repacked) = self.repack(packed, used)
        {
            *packed = repacked;
        }
        let first = if probe { self.ladder().probe() } else { used };
        let first = if first < packed.encoding { self.repack(packed, first) } else { None };
        let first = first.unwrap_or_else(|| packed.clone());
        let mut sent = first.encoding;
        // A probe whose turn it was to be simpler: that it is taken says nothing of the others.
        let turn = (probe && sent < used).then_some(sent);
        let mut verdict = self.send(&first, resend, watch).await?;
        while verdict.encoding != EncodingDoubt::None {
            let Some(simpler) = self.ladder().simpler(sent, &verdict.encoding) else { break };
            if probe && verdict.answer == Answer::Hold {
                self.ladder().probe_next_with(simpler);
                break;
            }
            let Some(trial) = self.repack(packed, simpler) else { break };
            sent = simpler;
            verdict = self.send(&trial, resend, watch).await?;
        }
        if let Answer::Accepted { .. } = verdict.answer
            && turn != Some(sent)
        {
            // One that came in a simpler encoding than is used says nothing of that.
            if sent != packed.encoding || sent == used {
                self.ladder().accepted(sent);
            }
            if sent != packed.encoding {
                tracing::info!(
                    refused = packed.encoding.name(),
                    used = sent.name(),
                    "the receiver refuses a compression, a simpler one is used from here on"
                );
            }
        }
        Ok(verdict)
    }

    async fn send(
        &self,
        packed: &Packed,
        resend: &mut bool,
        watch: &impl Watch,
    ) -> Result<Verdict, CallError> {
        let request = self.target.request(packed, *resend);
        watch.sent(packed.encoding, packed.body_bytes());
        let (address, reply) = match self.pool.call(&request, self.deadline).await {
            Ok(answered) => answered,
            Err(error) => {
                watch.answered(CONNECTION);
                *resend |= matches!(error, CallError::Unknown { .. });
                return Err(error);
            }
        };
        let verdict = match self.protocol {
            Protocol::Grpc => verdict::of_grpc(&reply, packed.encoding),
            Protocol::Http => verdict::of_http(&reply, packed.encoding, SystemTime::now()),
        };
        watch.answered(&verdict.code);
        if matches!(verdict.answer, Answer::Retry { .. } | Answer::Hold) {
            self.pool.avoid(address);
        }
        *resend |= !verdict.surely_not_kept();
        Ok(verdict)
    }

    fn ladder(&self) -> MutexGuard<'_, Ladder> {
        self.ladder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn packer(&self) -> MutexGuard<'_, Packer> {
        self.packer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn repack(&self, packed: &Packed, encoding: Encoding) -> Option<Packed> {
        match self.packer().repack(packed, encoding) {
            Ok(packed) => Some(packed),
            Err(error) => {
                tracing::error!(%error, "a request stays in the compression that it has");
                None
            }
        }
    }
}

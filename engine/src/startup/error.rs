//! Why a server does not start: each cause with its cure, for whoever reads it in a terminal.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

use crate::accounts::DirectoryError;
use crate::cluster::ClusterImportError;
use crate::log::LogError;
use crate::runtime::ShardError;

/// Why the server does not start: the cause, and what helps.
#[derive(Debug, Error)]
pub enum StartupError {
    /// The data folder cannot be made or written.
    #[error("cannot use the data folder {path}: {source}; choose another with --data-dir")]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another server holds the data folder.
    #[error(
        "the data folder {path} is in use by another pushflo; stop that one, or choose another with --data-dir"
    )]
    DataDirLocked {
        /// The folder.
        path: PathBuf,
    },
    /// Apps and keys cannot be read.
    #[error("cannot open the apps and keys in {path}: {source}{}", directory_cure(.source))]
    Directory {
        /// Where they are.
        path: PathBuf,
        /// The cause.
        source: DirectoryError,
    },
    /// Nobody can listen there.
    #[error("cannot listen on {address}: {source}{}", listen_cure(.source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// Nobody can listen for metrics there.
    #[error("cannot listen on {address}, which is metrics_listen: {source}{}", metrics_cure(.source))]
    MetricsListen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The kernel gives no io_uring.
    #[error("io_uring does not work here: {source}; {cure}")]
    IoUring {
        /// The cause.
        source: io::Error,
        /// What helps.
        cure: &'static str,
    },
    /// An import needs a cluster.
    #[error("an import needs a cluster: name its NATS with --cluster-nats")]
    ImportWithoutCluster,
    /// An import needs something to import.
    #[error("{path} is no data folder of PushFlo: it has no apps; name another with --from")]
    NothingToImport {
        /// What was named.
        path: PathBuf,
    },
    /// An import broke off.
    #[error("the import broke off: {0}; it can be begun again, and is then done as a whole")]
    Import(#[source] ClusterImportError),
    /// More shards than cores.
    #[error(
        "{shards} shards were asked for, but there are {cores} cores for them; a shard needs a core of its own, so lower --shards, or name the cores they are to share with --cores"
    )]
    Cores {
        /// Shards asked for.
        shards: usize,
        /// Cores this process may use.
        cores: usize,
    },
    /// A core that was named is not there, or not for this process.
    #[error("there is no core {core} for this process; --cores may name {}", list(.cores))]
    NoSuchCore {
        /// The core.
        core: usize,
        /// Those there are.
        cores: Vec<usize>,
    },
    /// A shard did not start.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The log cannot be opened.
    #[error("cannot open the log {path}: {source}{}", log_cure(.source))]
    Log {
        /// Where it is.
        path: PathBuf,
        /// The cause.
        source: LogError,
    },
    /// Nothing comes of a hand-over.
    #[error("cannot take the place of the process before: {0}")]
    HandOver(#[source] io::Error),
    /// The machine is out of threads, descriptors or memory.
    #[error("the machine has no more resources: {0}")]
    Resources(#[from] io::Error),
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

fn listen_cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another program listens there, choose another with --listen",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
        _ => "",
    }
}

fn metrics_cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another program listens there, choose another",
        _ => listen_cure(error),
    }
}

fn directory_cure(error: &DirectoryError) -> &'static str {
    match error {
        DirectoryError::Store(_) | DirectoryError::Unknown(_) => "",
        DirectoryError::Damaged { .. } | DirectoryError::Lost(_) => {
            "; apps may be missing, revoked keys may work and private channels may be open, so the \
             server does not start. Restore the folder `directory` and the files `directory.seal` and \
             `directory.private` beside it from a copy of one moment. Without a copy, `pushflo \
             directory accept` goes on with what can be read, or move the folder and \
             `directory.seal` (not `directory.private`) away to begin with new apps and keys; \
             history stays"
        }
        DirectoryError::Plan { .. } => "; add it to the configuration again",
        DirectoryError::OfOneNode { .. } => "; give the node a folder of its own with --data-dir",
        DirectoryError::OfCluster => {
            "; start it with cluster.nats, or give the server another folder with --data-dir"
        }
    }
}

fn log_cure(error: &LogError) -> &'static str {
    match error {
        LogError::Newer { .. } => "",
        LogError::Store(_) => "; history needs a disk that can be written, or --durability memory",
        LogError::Damaged(_) => {
            "; move it away to begin with an empty one, or restore it from a copy"
        }
        LogError::Stopped => "; look for the cause in the lines before this one",
    }
}

//! The kernel's log: `defmt` frames from the second serial port, decoded while they come.

use anyhow::{Context, Result, anyhow};
use core::time::Duration;
use defmt_decoder::{DecodeError, StreamDecoder, Table};
use std::{
    fs::{self, File},
    io::{Read as _, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

/// How often the file is looked at.
const POLL: Duration = Duration::from_millis(100);

/// A thread that decodes a growing file of frames.
#[derive(Debug)]
pub(crate) struct Follower {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Follower {
    /// Decodes the frames in `frames`, which `kernel` sends, into the text file `log`; also to the terminal if `live`.
    pub(crate) fn start(kernel: &Path, frames: &Path, log: &Path, live: bool) -> Result<Self> {
        let elf = fs::read(kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
        let mut input =
            File::open(frames).with_context(|| format!("cannot read {}", frames.display()))?;
        let mut log =
            File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            // A kernel without log messages has no table; there is nothing to follow then.
            let Some(table) =
                Table::parse(&elf).map_err(|error| anyhow!("the kernel's log table: {error}"))?
            else {
                return Ok(());
            };
            let mut decoder = table.new_stream_decoder();
            loop {
                let last = stopped.load(Ordering::Acquire);
                let mut bytes = Vec::new();
                input.read_to_end(&mut bytes)?;
                decoder.received(&bytes);
                for line in decode(&mut *decoder) {
                    writeln!(log, "{line}")?;
                    if live {
                        println!("  {line}");
                    }
                }
                if last {
                    return Ok(());
                }
                thread::sleep(POLL);
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Decodes what is left and ends.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(anyhow!("the decoder of the kernel's log panicked")),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// Every whole frame there is.
fn decode(decoder: &mut dyn StreamDecoder) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        match decoder.decode() {
            Ok(frame) => lines.push(frame.display(false).to_string()),
            Err(DecodeError::UnexpectedEof) => return lines,
            // The encoding finds its way back at the next frame.
            Err(DecodeError::Malformed) => lines.push("(a damaged frame)".into()),
        }
    }
}

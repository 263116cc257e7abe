//! The file that is heard into: frames in order, each at its time.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use bytes::Bytes;

use super::{ClientError, ogg};

/// Opens the file to record to, and leaves it as it is.
pub(super) fn open_file(path: &Path) -> Result<File, ClientError> {
    let file = File::options().write(true).create(true).truncate(false).open(path);
    Ok(file.map_err(ogg::WriteError::from)?)
}

/// The file that is being written.
pub(super) struct Recording {
    writer: ogg::Writer<BufWriter<File>>,
    /// Added to the stream's timestamps, so that a new stream goes on where the last one ended.
    shift: Option<u32>,
    end: u32,
    /// Something was written since the last flush.
    dirty: bool,
}

impl Recording {
    /// Begins a file: what it held is gone.
    pub(super) fn begin(file: File) -> Result<Self, ClientError> {
        if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            file.set_len(0).map_err(ogg::WriteError::from)?;
        }
        // Stereo, because Opus decodes mono packets into it, and packets of both kinds may come (RFC 7587 §4.4).
        let writer = ogg::Writer::new(BufWriter::new(file), rand::random(), ogg::Head::new(2))?;
        Ok(Self { writer, shift: None, end: 0, dirty: false })
    }

    /// Adds a frame.
    pub(super) fn write(&mut self, timestamp: u32, payload: &Bytes) -> Result<(), ClientError> {
        let shift = *self.shift.get_or_insert_with(|| self.end.wrapping_sub(timestamp));
        let timestamp = timestamp.wrapping_add(shift);
        match self.writer.write(payload, timestamp) {
            Ok(()) => self.dirty = true,
            // What a peer sends is not our failure: it was counted, and it cannot be played.
            Err(ogg::WriteError::BadPacket | ogg::WriteError::Late) => {}
            Err(error) => return Err(error.into()),
        }
        self.end = self.writer.samples() as u32;
        Ok(())
    }

    /// Another stream follows, with another clock.
    pub(super) fn restart(&mut self) {
        self.shift = None;
    }

    /// What is written is in the file, once nothing has come for a while.
    pub(super) fn flush(&mut self) -> Result<(), ClientError> {
        if !std::mem::take(&mut self.dirty) {
            self.writer.flush()?;
        }
        Ok(())
    }

    /// Ends the file.
    pub(super) fn finish(self) -> Result<(), ClientError> {
        self.writer.finish()?;
        Ok(())
    }
}

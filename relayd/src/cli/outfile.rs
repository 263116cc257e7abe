//! A file that is written at the end of a long run, and opened before its beginning.
//!
//! That it cannot be written is found before there is anything to lose. What was in it stays until there is something to
//! take its place; one that was not there, and is not written, is not there afterwards either.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file that is to be written.
#[derive(Debug)]
pub(super) struct OutFile {
    path: PathBuf,
    file: File,
    /// It was not there before, and nothing is in it.
    is_new: bool,
}

impl OutFile {
    /// Opens it, or says why not.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let (file, is_new) = match File::create_new(path) {
            Ok(file) => (Ok(file), true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                (OpenOptions::new().write(true).create(true).truncate(false).open(path), false)
            }
            Err(error) => (Err(error), false),
        };
        let file = file.map_err(|error| told(path, &error))?;
        Ok(Self { path: path.to_owned(), file, is_new })
    }

    /// Writes it, in the place of what was there.
    pub(super) fn write(mut self, text: &str) -> Result<(), String> {
        self.fill(text).map_err(|error| told(&self.path, &error))?;
        self.is_new = false;
        Ok(())
    }

    fn fill(&mut self, text: &str) -> io::Result<()> {
        // A pipe or a terminal has nothing to take the place of.
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        self.file.write_all(text.as_bytes())
    }
}

impl Drop for OutFile {
    fn drop(&mut self) {
        if self.is_new {
            // Somebody else may have removed it.
            let _gone = std::fs::remove_file(&self.path).is_err();
        }
    }
}

fn told(path: &Path, error: &io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path at which nothing is.
    fn path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("relayd-outfile-{}-{name}", std::process::id()));
        drop(std::fs::remove_file(&path));
        path
    }

    #[test]
    fn what_was_there_stays_until_it_is_written() {
        let path = path("there");
        std::fs::write(&path, "longer than the new one").unwrap();
        drop(OutFile::open(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "longer than the new one");
        OutFile::open(&path).unwrap().write("new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_not_written_does_not_stay() {
        let path = path("new");
        let file = OutFile::open(&path).unwrap();
        assert!(path.exists());
        drop(file);
        assert!(!path.exists());
        OutFile::open(&path).unwrap().write("new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_cannot_be_written_is_named_and_what_is_no_file_can() {
        let wrong = path("nowhere").join("file");
        let error = OutFile::open(&wrong).unwrap_err();
        assert!(error.starts_with(&format!("cannot write {}: ", wrong.display())), "{error}");
        assert!(OutFile::open(&std::env::temp_dir()).is_err(), "a directory");
        OutFile::open(Path::new("/dev/null")).unwrap().write("gone").unwrap();
        assert!(Path::new("/dev/null").exists());
    }
}

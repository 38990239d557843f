//! Bearer tokens that live in files.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs, io};

use crate::watched::Watched;

/// The longest token file that is read, in bytes.
pub const LONGEST: u64 = 64 << 10;

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds no token.
    #[error("{}: holds no token", .0.display())]
    Empty(PathBuf),
    /// It holds a byte that cannot be part of a header value.
    #[error("{}: is not a token (only printable ASCII without spaces can be)", .0.display())]
    NotAToken(PathBuf),
}

/// A token that we send, read again when its file changes.
pub struct Token {
    path: PathBuf,
    value: Watched<String>,
}

/// The tokens that we accept, one a line, read again when their file changes.
pub struct Tokens {
    path: PathBuf,
    values: Watched<Vec<String>>,
}

impl Token {
    /// Reads `path` for the first time.
    ///
    /// # Errors
    /// When the file cannot be read, is empty or holds no token.
    pub fn open(path: &Path) -> Result<Self, SecretError> {
        let value = Watched::new(vec![path.to_owned()], || read_one(path))?;
        Ok(Self { path: path.to_owned(), value })
    }

    /// The token of now, without white space around it.
    pub fn get(&self) -> Arc<String> {
        self.value.get(|| read_one(&self.path))
    }
}

impl Tokens {
    /// Reads `path` for the first time. Empty lines and lines that start with `#` are skipped.
    ///
    /// # Errors
    /// When the file cannot be read, is empty or a line is no token.
    pub fn open(path: &Path) -> Result<Self, SecretError> {
        let values = Watched::new(vec![path.to_owned()], || read_all(path))?;
        Ok(Self { path: path.to_owned(), values })
    }

    /// Whether `candidate` is one of them. Takes as long for a wrong token as for a right one.
    pub fn accept(&self, candidate: &str) -> bool {
        let values = self.values.get(|| read_all(&self.path));
        values.iter().fold(false, |found, value| found | same(value.as_bytes(), candidate.as_bytes()))
    }

    /// Whether an `Authorization` header (its value) carries one of them.
    pub fn accept_header(&self, value: Option<&http::HeaderValue>) -> bool {
        let Some((scheme, token)) =
            value.and_then(|value| value.to_str().ok()).and_then(|text| text.split_once(' '))
        else {
            return false;
        };
        scheme.eq_ignore_ascii_case("bearer") && self.accept(token.trim())
    }
}

/// The first of the tokens in a file as [`Tokens`] reads it, for who sends it once.
///
/// # Errors
/// As [`Tokens::open`].
pub fn first_token(path: &Path) -> Result<String, SecretError> {
    let first = read_all(path)?.into_iter().next();
    first.ok_or_else(|| SecretError::Empty(path.to_owned()))
}

/// Equality in a time that depends on the lengths alone.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

fn read_one(path: &Path) -> Result<String, SecretError> {
    check(path, read(path)?.trim()).map(str::to_owned)
}

fn read_all(path: &Path) -> Result<Vec<String>, SecretError> {
    let text = read(path)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let tokens: Vec<String> =
        lines.map(|line| check(path, line).map(str::to_owned)).collect::<Result<_, _>>()?;
    if tokens.is_empty() { Err(SecretError::Empty(path.to_owned())) } else { Ok(tokens) }
}

fn read(path: &Path) -> Result<String, SecretError> {
    let mut text = String::new();
    let result = fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text));
    match result {
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(SecretError::NotAToken(path.to_owned()))
        }
        Err(source) => Err(SecretError::Io { path: path.to_owned(), source }),
    }
}

fn check<'a>(path: &Path, token: &'a str) -> Result<&'a str, SecretError> {
    if token.is_empty() {
        return Err(SecretError::Empty(path.to_owned()));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(SecretError::NotAToken(path.to_owned()));
    }
    Ok(token)
}

// Never the token: these end up in logs.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("path", &self.path).finish_non_exhaustive()
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_file_without_white_space_and_never_printed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "  s3cret\n\n").unwrap();
        let token = Token::open(&path).unwrap();
        assert_eq!(*token.get(), "s3cret");
        assert!(!format!("{token:?}").contains("s3cret"));
    }

    #[test]
    fn a_file_that_holds_no_token_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(matches!(Token::open(&path), Err(SecretError::Io { .. })));
        for bad in [&b""[..], b" \n", b"two words", b"line\nline", b"\xff\xfe", b"nul\0"] {
            fs::write(&path, bad).unwrap();
            let error = Token::open(&path).unwrap_err().to_string();
            assert!(error.starts_with(&path.display().to_string()), "{error}");
        }
    }

    #[test]
    fn any_line_of_the_list_is_accepted_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        fs::write(&path, "# agents\nfirst\n\n second \n").unwrap();
        let tokens = Tokens::open(&path).unwrap();
        assert!(tokens.accept("first") && tokens.accept("second"));
        for wrong in ["", "firs", "first ", "third", "# agents"] {
            assert!(!tokens.accept(wrong), "{wrong}");
        }
        let header = |text: &str| http::HeaderValue::from_str(text).unwrap();
        assert!(tokens.accept_header(Some(&header("Bearer first"))));
        assert!(tokens.accept_header(Some(&header("bearer second"))));
        assert!(!tokens.accept_header(Some(&header("Basic first"))));
        assert!(!tokens.accept_header(Some(&header("first"))));
        assert!(!tokens.accept_header(None));
        fs::write(&path, "# none\n").unwrap();
        assert!(matches!(Tokens::open(&path), Err(SecretError::Empty(_))));
    }
}

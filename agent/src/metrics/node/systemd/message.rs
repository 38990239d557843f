//! D-Bus messages, as far as asking systemd takes them (D-Bus Specification 0.43, "Message Protocol").
//!
//! Calls are written little-endian; answers come in the other side's order. Everything in them is bounds-checked:
//! a length that lies is an error and never an allocation.

/// The largest message that is taken: thousands of units with long descriptions are 1 MiB.
pub(super) const LARGEST: usize = 16 << 20;
/// What stands before the fields of every message.
pub(super) const HEAD: usize = 16;

/// What a call is of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    /// Arguments, all of them strings.
    pub(super) arguments: &'a [&'a str],
}

impl Call<'_> {
    /// Writes the call behind what is there, under a serial that is not 0.
    pub(super) fn write(&self, serial: u32, into: &mut Vec<u8>) {
        let mut body = Vec::new();
        for argument in self.arguments {
            put_text(&mut body, argument);
        }
        let mut fields = Vec::new();
        for (code, kind, text) in [
            (1, b'o', self.path),
            (2, b's', self.interface),
            (3, b's', self.member),
            (6, b's', self.destination),
        ] {
            align(&mut fields, 8);
            fields.extend([code, 1, kind, 0]);
            put_text(&mut fields, text);
        }
        if !self.arguments.is_empty() {
            align(&mut fields, 8);
            fields.extend([8, 1, b'g', 0]);
            fields.push(length(self.arguments.len()).to_le_bytes()[0]);
            fields.extend(std::iter::repeat_n(b's', self.arguments.len()));
            fields.push(0);
        }
        let mut message = vec![b'l', 1, 0, 1];
        message.extend(length(body.len()).to_le_bytes());
        message.extend(serial.to_le_bytes());
        message.extend(length(fields.len()).to_le_bytes());
        message.extend(fields);
        align(&mut message, 8);
        message.extend(body);
        into.extend(message);
    }
}

/// Calls are some hundred bytes.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn align(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    align(bytes, 4);
    bytes.extend(length(text.len()).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

/// The length of the whole message, by its first [`HEAD`] bytes.
pub(super) fn whole(head: &[u8]) -> Result<usize, String> {
    let mut reader = Reader::of(head)?;
    reader.at = 4;
    let (body, _serial, fields) = (reader.number()?, reader.number()?, reader.number()?);
    let whole = (HEAD as u64 + u64::from(fields)).next_multiple_of(8) + u64::from(body);
    usize::try_from(whole)
        .ok()
        .filter(|whole| *whole <= LARGEST)
        .ok_or_else(|| format!("a message of {whole} bytes"))
}

/// A message that came in.
#[derive(Debug)]
pub(super) struct Answer<'m> {
    /// The call that it answers; 0 for what answers none.
    pub(super) serial: u32,
    /// Its body, or the name of the error.
    pub(super) body: Result<Reader<'m>, String>,
}

/// Takes a whole message apart.
pub(super) fn parse(message: &[u8]) -> Result<Answer<'_>, String> {
    let mut reader = Reader::of(message)?;
    let kind = message.get(1).copied();
    reader.at = 12;
    let fields = reader.number()? as usize;
    let end = HEAD.checked_add(fields).filter(|end| *end <= message.len()).ok_or("fields that go too far")?;
    let (mut serial, mut error) = (0, String::new());
    loop {
        reader.align(8);
        if reader.at >= end {
            break;
        }
        let code = reader.byte()?;
        match (code, reader.signature()?) {
            (5, "u") => serial = reader.number()?,
            (4, "s") => reader.text()?.clone_into(&mut error),
            (_, "s" | "o") => drop(reader.text()?),
            (_, "g") => drop(reader.signature()?),
            (_, "u") => drop(reader.number()?),
            (_, other) => return Err(format!("a field of type {other:?}")),
        }
    }
    let body = match kind {
        Some(2) => Ok(reader),
        Some(3) => Err(error),
        // Signals and calls answer nothing.
        _ => return Ok(Answer { serial: 0, body: Ok(reader) }),
    };
    Ok(Answer { serial, body })
}

/// Reads values where they stand in a message.
#[derive(Clone, Debug)]
pub(super) struct Reader<'m> {
    bytes: &'m [u8],
    at: usize,
    big: bool,
}

impl<'m> Reader<'m> {
    fn of(bytes: &'m [u8]) -> Result<Self, String> {
        let big = match bytes {
            [b'l', _, _, 1, ..] => false,
            [b'B', _, _, 1, ..] => true,
            _ => return Err("not a message of D-Bus".to_owned()),
        };
        Ok(Self { bytes, at: 0, big })
    }

    fn take(&mut self, count: usize) -> Result<&'m [u8], String> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or("a message that is cut off")?;
        self.at += count;
        Ok(taken)
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    /// An unsigned 32-bit number.
    pub(super) fn number(&mut self) -> Result<u32, String> {
        self.align(4);
        let bytes = self.take(4)?.try_into().map_err(|_| "four bytes")?;
        Ok(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// A string, or the path of an object.
    pub(super) fn text(&mut self) -> Result<&'m str, String> {
        let length = self.number()? as usize;
        let bytes = self.take(length)?;
        self.byte()?;
        std::str::from_utf8(bytes).map_err(|error| error.to_string())
    }

    fn signature(&mut self) -> Result<&'m str, String> {
        let length = usize::from(self.byte()?);
        let bytes = self.take(length)?;
        self.byte()?;
        std::str::from_utf8(bytes).map_err(|error| error.to_string())
    }

    /// Structs of an array, one after the other, until its bytes are used up.
    pub(super) fn structs<T>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<T, String>,
        most: usize,
    ) -> Result<Vec<T>, String> {
        let length = self.number()? as usize;
        self.align(8);
        let end = self.at.saturating_add(length);
        let mut all = Vec::new();
        while self.at < end && all.len() < most {
            self.align(8);
            all.push(each(self)?);
        }
        Ok(all)
    }

    /// A value with its type before it, which has to be a string.
    pub(super) fn any_text(&mut self) -> Result<&'m str, String> {
        match self.signature()? {
            "s" => self.text(),
            other => Err(format!("a value of type {other:?}")),
        }
    }

    /// A value with its type before it, which has to be an unsigned 32-bit number.
    pub(super) fn any_number(&mut self) -> Result<u32, String> {
        match self.signature()? {
            "u" => self.number(),
            other => Err(format!("a value of type {other:?}")),
        }
    }
}

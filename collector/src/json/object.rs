//! Objects that are there only if they hold something.

use super::write_str;

/// An object that is written only if it has a member.
pub struct Object {
    name: &'static str,
    begun: bool,
}

impl Object {
    /// An object of this name, a member itself: a comma comes before it.
    pub fn new(name: &'static str) -> Self {
        Self { name, begun: false }
    }

    /// Begins a member; its value is written to what is returned.
    pub fn member<'o>(&mut self, name: &str, out: &'o mut Vec<u8>) -> &'o mut Vec<u8> {
        if self.begun {
            out.push(b',');
        } else {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(self.name.as_bytes());
            out.extend_from_slice(b"\":{");
        }
        self.begun = true;
        write_str(name, out);
        out.push(b':');
        out
    }

    /// Ends the object, if it was begun.
    pub fn end(self, out: &mut Vec<u8>) {
        if self.begun {
            out.push(b'}');
        }
    }
}

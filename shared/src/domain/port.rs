//! Ports on which a container listens.

use std::fmt;

use serde_json::Value;

use super::field::kind;

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
    /// Stream Control Transmission Protocol.
    Sctp,
}

impl Protocol {
    /// Returns the name in lower case, as Docker writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port with its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortSpec {
    /// The port number, 1 to 65535.
    pub number: u16,
    /// The protocol; TCP by default.
    pub protocol: Protocol,
}

impl PortSpec {
    /// Reads `8888`, `"8888"` or `"53/udp"`. Returns `None` for an empty string, which means no port.
    ///
    /// # Errors
    /// A message for the user that says what is wrong.
    pub fn read(value: &Value) -> Result<Option<Self>, String> {
        match value {
            Value::String(text) if text.trim().is_empty() => Ok(None),
            Value::String(text) => Self::parse(text.trim()).map(Some),
            Value::Number(number) => {
                let number = number.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
                number.map(|number| Some(Self { number, protocol: Protocol::Tcp })).ok_or_else(bad)
            }
            other => Err(format!("must be a port such as 8888 or \"53/udp\", not {}", kind(other))),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return Err("must have one of the protocols tcp, udp and sctp".into()),
        };
        let digits = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit());
        let number = number.parse().ok().filter(|number: &u16| digits && *number > 0).ok_or_else(bad)?;
        Ok(Self { number, protocol })
    }
}

fn bad() -> String {
    "must be a port from 1 to 65535, such as 8888 or \"53/udp\"".into()
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_numbers_or_strings() {
        let port = |number, protocol| Ok(Some(PortSpec { number, protocol }));
        assert_eq!(PortSpec::read(&json!(8888)), port(8888, Protocol::Tcp));
        assert_eq!(PortSpec::read(&json!("8888")), port(8888, Protocol::Tcp));
        assert_eq!(PortSpec::read(&json!("53/UDP")), port(53, Protocol::Udp));
        assert_eq!(PortSpec::read(&json!("")), Ok(None));
        for bad in [
            json!(0),
            json!(65536),
            json!(-1),
            json!(1.5),
            json!("+80"),
            json!("80/"),
            json!("80/icmp"),
            json!("a"),
            json!("80/tcp/udp"),
            json!(null),
            json!(true),
            json!("99999999999999999999"),
            json!(1e300),
        ] {
            assert!(PortSpec::read(&bad).is_err(), "{bad}");
        }
    }
}

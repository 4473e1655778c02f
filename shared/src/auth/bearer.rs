//! The bearer token of a request: RFC 6750, section 2.1.

use super::TokenError;

/// Returns the token in the `Authorization` headers of a request. There must be exactly one header.
///
/// # Errors
/// Fails if there is no header, more than one, or one of another form.
pub fn bearer_token<'a>(headers: impl IntoIterator<Item = &'a [u8]>) -> Result<&'a str, TokenError> {
    let mut headers = headers.into_iter();
    let header = headers.next().ok_or(TokenError::Missing)?;
    if headers.next().is_some() {
        return Err(TokenError::Several);
    }
    let header = std::str::from_utf8(header).map_err(|_| TokenError::Malformed)?;
    let (scheme, token) = header.split_once(' ').ok_or(TokenError::Malformed)?;
    let token = token.trim_matches(' ');
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | '+' | '/' | '=');
    if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.chars().all(known) {
        Ok(token)
    } else {
        Err(TokenError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bearer_header_holds_a_token() {
        let token = |headers: &[&'static str]| bearer_token(headers.iter().map(|header| header.as_bytes()));
        assert_eq!(token(&["Bearer abc"]), Ok("abc"));
        assert_eq!(token(&["bearer  a.b-c_d "]), Ok("a.b-c_d"));
        assert_eq!(token(&[]), Err(TokenError::Missing));
        assert_eq!(token(&["Bearer a", "Bearer a"]), Err(TokenError::Several));
        for bad in ["Bearer", "Bearer ", "Basic abc", "Bearer a b", "abc", "Bearer ä", "Bearer a,b"] {
            assert_eq!(token(&[bad]), Err(TokenError::Malformed), "{bad:?}");
        }
    }
}

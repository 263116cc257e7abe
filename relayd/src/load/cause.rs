//! What keeps publishers and listeners out, for those who have to tell a wrong address from a bad server.

use crate::client::HttpError;

/// Why joins came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// There was no HTTP connection to the server.
    Unreachable,
    /// The server refused.
    Refused {
        /// Its HTTP status: 4xx.
        status: u16,
    },
    /// Something else, or more than one of these.
    Other,
}

impl Cause {
    pub(crate) fn of(error: &HttpError) -> Self {
        match error {
            HttpError::Unreachable { .. } => Self::Unreachable,
            HttpError::Refused { status, .. } => Self::Refused { status: *status },
            _ => Self::Other,
        }
    }

    /// Of this failure and another one; of two refusals, the first.
    pub(crate) fn and(self, other: Self) -> Self {
        if std::mem::discriminant(&self) == std::mem::discriminant(&other) { self } else { Self::Other }
    }
}

/// A join that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// For people, without what differs from one to the next.
    pub(crate) reason: String,
    pub(crate) cause: Cause,
}

impl Failure {
    /// None of the server's that HTTP told.
    pub(crate) fn other(error: impl ToString) -> Self {
        Self { reason: error.to_string(), cause: Cause::Other }
    }
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        let cause = Cause::of(&error);
        let reason = match error {
            HttpError::Refused { status, problem } | HttpError::Failed { status, problem } => {
                let what = problem.code.or(problem.title).unwrap_or_default();
                format!("HTTP {status} {what}").trim_end().to_owned()
            }
            HttpError::Unreachable { why, .. } => format!("no HTTP connection: {why}"),
            error => error.to_string(),
        };
        Self { reason, cause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Problem;

    #[test]
    fn reasons_are_the_same_for_the_same_cause() {
        let problem = |code: Option<&str>| Problem {
            title: Some("Service Unavailable".into()),
            detail: Some("try later: 17".into()),
            code: code.map(str::to_owned),
            retry_after: None,
        };
        let told = |error: HttpError| {
            let Failure { reason, cause } = error.into();
            (reason, cause)
        };
        let failed = |code| HttpError::Failed { status: 503, problem: problem(code) };
        assert_eq!(told(failed(Some("CAPACITY"))), ("HTTP 503 CAPACITY".into(), Cause::Other));
        assert_eq!(told(failed(None)), ("HTTP 503 Service Unavailable".into(), Cause::Other));
        let bare = HttpError::Refused { status: 404, problem: Problem::default() };
        assert_eq!(told(bare), ("HTTP 404".into(), Cause::Refused { status: 404 }));
        let gone = HttpError::Unreachable { server: "x:1".into(), why: "nothing listens there".into() };
        assert_eq!(told(gone), ("no HTTP connection: nothing listens there".into(), Cause::Unreachable));
    }

    #[test]
    fn causes_that_differ_are_none() {
        let refused = |status| Cause::Refused { status };
        assert_eq!(refused(404).and(refused(401)), refused(404));
        assert_eq!(Cause::Unreachable.and(Cause::Unreachable), Cause::Unreachable);
        for (one, other) in [(refused(404), Cause::Unreachable), (Cause::Other, refused(404))] {
            assert_eq!((one.and(other), other.and(one)), (Cause::Other, Cause::Other));
        }
    }
}

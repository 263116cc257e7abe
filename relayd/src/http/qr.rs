//! `GET /qr.svg?text=…`: a QR code, so that a phone gets from the speaker's screen to the listener's page.

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use qrcode::QrCode;
use qrcode::render::svg;
use serde::Deserialize;
use utoipa_axum::routes;

use super::problem::{Code, Problem};
use super::route::{Policy, Routes};

/// The routes of this surface.
pub(super) fn routes() -> Routes {
    Routes::new().add(Policy::Public, routes!(draw)).refuses(&[Code::InvalidField])
}

#[derive(Debug, Deserialize)]
struct Asked {
    text: String,
}

/// A QR code
#[utoipa::path(
    get,
    path = "/qr.svg",
    tag = "pages",
    operation_id = "drawCode",
    params(("text" = String, Query, description = "What it says, 1 to 512 bytes.", min_length = 1, max_length = 512)),
    responses((status = 200, description = "The code as SVG.", body = String, content_type = "image/svg+xml"))
)]
async fn draw(asked: Result<Query<Asked>, QueryRejection>) -> Result<Response, Problem> {
    let Query(Asked { text }) =
        asked.map_err(|_| Problem::field("text", "the query must have one `text`"))?;
    if text.is_empty() || text.len() > MAX_TEXT {
        return Err(Problem::field(
            "text",
            format!("text must be 1 to {MAX_TEXT} bytes, but is {}", text.len()),
        ));
    }
    let code = QrCode::new(&text).map_err(|error| Problem::field("text", error.to_string()))?;
    let image = code.render::<svg::Color<'_>>().min_dimensions(256, 256).build();
    let headers = [
        (header::CONTENT_TYPE, "image/svg+xml"),
        (header::CACHE_CONTROL, "private, max-age=3600"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, image).into_response())
}

/// The longest text, in bytes.
const MAX_TEXT: usize = 512;

//! The attribute `#[plugin]` of `postern-sdk`: it reads which stages an `impl Plugin for …` has, and exports those.
//!
//! It walks the tokens itself: all it must know is the name of the type and of the functions, and so it needs no
//! parser of the whole language.

use proc_macro::{Delimiter, TokenStream, TokenTree};

/// The functions of `Plugin` that are stages.
const STAGES: [&str; 7] = ["connect", "helo", "mail_from", "rcpt", "data", "deliver", "event"];

/// The interfaces whose bindings `postern-sdk` has.
const INTERFACES: [&str; 15] = [
    "types",
    "session",
    "message",
    "config",
    "log",
    "metrics",
    "clock",
    "dns",
    "tables",
    "counters",
    "store",
    "authentication",
    "signing",
    "scan",
    "call-ahead",
];

/// The contract.
const WIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../wit");

/// Exports the stages that this `impl Plugin for …` has written; the gateway asks the plugin at no other.
#[proc_macro_attribute]
pub fn plugin(arguments: TokenStream, item: TokenStream) -> TokenStream {
    if !arguments.is_empty() {
        return error("#[plugin] takes no arguments");
    }
    match exports(&item) {
        Ok(exports) => item.into_iter().chain(exports).collect(),
        Err(message) => item.into_iter().chain(error(message)).collect(),
    }
}

fn exports(item: &TokenStream) -> Result<TokenStream, &'static str> {
    const SHAPE: &str = "#[plugin] stands before `impl Plugin for NAME { … }`, NAME a type without parameters";
    let tokens: Vec<TokenTree> = item.clone().into_iter().collect();
    let [.., TokenTree::Ident(keyword), TokenTree::Ident(name), TokenTree::Group(body)] = tokens.as_slice() else {
        return Err(SHAPE);
    };
    if keyword.to_string() != "for" || body.delimiter() != Delimiter::Brace {
        return Err(SHAPE);
    }
    let written = functions(body.stream());
    let stages: Vec<_> = STAGES.into_iter().filter(|stage| written.iter().any(|name| name == stage)).collect();
    if stages.is_empty() {
        return Err(
            "this plugin has no stage: write at least one of connect, helo, mail_from, rcpt, data, deliver, event",
        );
    }
    bindings(&name.to_string(), &stages).parse().map_err(|_| SHAPE)
}

/// A world of the contract with exactly these stages, made known to the component's host by one custom section, and
/// the exports of each. The types and imports are those of `postern-sdk`.
fn bindings(plugin: &str, stages: &[&str]) -> String {
    let mut exports = String::from("export postern:plugin/on-load@0.1.0;");
    let mut guests = format!(
        "impl exports::postern::plugin::on_load::Guest for {plugin} {{
            fn check() -> ::core::result::Result<(), ::std::string::String> {{ sdk::load::<{plugin}>() }}
        }}"
    );
    for stage in stages {
        exports.push_str(&format!("export postern:plugin/on-{}@0.1.0;", stage.replace('_', "-")));
        let function = match *stage {
            "connect" | "helo" => "fn judge(s: &sdk::Session) -> sdk::Verdict { sdk::STAGE::<PLUGIN>(s) }",
            "rcpt" => {
                "fn judge(s: &sdk::Session, m: &sdk::Message, r: sdk::Recipient) -> sdk::Verdict {
                    sdk::STAGE::<PLUGIN>(s, m, r)
                }"
            }
            "event" => {
                "fn notify(e: exports::postern::plugin::on_event::Event) {
                    sdk::STAGE::<PLUGIN>(e.kind as u8, e.id, e.recipient, e.detail)
                }"
            }
            _ => "fn judge(s: &sdk::Session, m: &sdk::Message) -> sdk::Verdict { sdk::STAGE::<PLUGIN>(s, m) }",
        };
        let function = function.replace("STAGE", stage).replace("PLUGIN", plugin);
        guests.push_str(&format!("impl exports::postern::plugin::on_{stage}::Guest for {plugin} {{ {function} }}"));
    }
    let shared: String = INTERFACES
        .iter()
        .map(|name| {
            let module = name.replace('-', "_");
            format!("\"postern:plugin/{name}@0.1.0\": ::postern_sdk::wasm::imports::postern::plugin::{module},")
        })
        .collect();
    format!(
        "#[cfg(target_arch = \"wasm32\")]
        #[allow(unsafe_code, clippy::all, reason = \"generated: the canonical ABI is made of pointers\")]
        mod __postern {{
            use super::{plugin};
            use ::postern_sdk::wasm as sdk;
            sdk::wit_bindgen::generate!({{
                inline: \"package postern:guest; world guest {{ include postern:plugin/capabilities@0.1.0; {exports} }}\",
                path: {WIT:?},
                runtime_path: \"::postern_sdk::wasm::wit_bindgen::rt\",
                with: {{ {shared} }},
            }});
            {guests}
            export!({plugin});
        }}
        // Elsewhere nobody but tests uses it, and the compiler would say so.
        #[cfg(not(target_arch = \"wasm32\"))]
        const _: fn() -> ::core::result::Result<(), ::std::string::String> = ::postern_sdk::plugin::check::<{plugin}>;"
    )
}

/// The names after each `fn` directly in the block.
fn functions(body: TokenStream) -> Vec<String> {
    let mut names = Vec::new();
    let mut after_fn = false;
    for token in body {
        if let TokenTree::Ident(ident) = &token {
            let ident = ident.to_string();
            if after_fn {
                names.push(ident.clone());
            }
            after_fn = ident == "fn";
        } else {
            after_fn = false;
        }
    }
    names
}

fn error(message: &str) -> TokenStream {
    format!("::core::compile_error!({message:?});").parse().unwrap_or_default()
}

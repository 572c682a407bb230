//! Where the type of a function is not the one of the contract, in words.
//!
//! Names of types and of parameters don't count, because the component model compares what they are made of. The walk
//! follows the contract's own types and stops where the other side leaves them, so it is as deep as these are.

use wit_parser::{Function, Handle, Resolve, Type, TypeDef, TypeDefKind, TypeId};

/// Names of a list that are told.
const MAX_NAMES: usize = 16;
/// Characters of one name.
const MAX_NAME: usize = 64;
/// Levels of types within types that are told.
const MAX_DEPTH: usize = 3;

/// The first difference: `judge: result: case reject: field code: u32, the contract has u16`.
pub(super) fn difference(has: (&Resolve, &Function), contract: (&Resolve, &Function)) -> Option<String> {
    let walk = Walk { has: has.0, contract: contract.0 };
    let (has, contract) = (has.1, contract.1);
    let name = cut(&contract.name);
    let same_form = has.params.len() == contract.params.len()
        && has.result.is_some() == contract.result.is_some()
        && has.kind.is_async() == contract.kind.is_async();
    if !same_form {
        let (has, contract) = (signature(walk.has, has), signature(walk.contract, contract));
        return Some(format!("{name} is {has}, the contract has {contract}"));
    }
    let params = has.params.iter().zip(&contract.params);
    let params = params.map(|(has, contract)| (format!("parameter {}", contract.name), has.ty, contract.ty));
    let result = has.result.zip(contract.result).map(|(has, contract)| ("result".to_owned(), has, contract));
    let found = params.chain(result).find_map(|(place, has, contract)| walk.types(has, contract).map(|it| (place, it)));
    found.map(|(place, difference)| format!("{name}: {place}: {difference}"))
}

struct Walk<'a> {
    has: &'a Resolve,
    contract: &'a Resolve,
}

impl Walk<'_> {
    fn types(&self, has: Type, contract: Type) -> Option<String> {
        let (has, contract) = (target(self.has, has), target(self.contract, contract));
        match (has, contract) {
            (Type::Id(one), Type::Id(other)) => self.defined(one, other),
            _ if has == contract => None,
            _ => Some(self.told(has, contract)),
        }
    }

    fn defined(&self, has: TypeId, contract: TypeId) -> Option<String> {
        let told = || Some(self.told(Type::Id(has), Type::Id(contract)));
        match (&definition(self.has, has).kind, &definition(self.contract, contract).kind) {
            (TypeDefKind::Record(one), TypeDefKind::Record(other)) => {
                let names = one.fields.iter().map(|f| &f.name).eq(other.fields.iter().map(|f| &f.name));
                let mut fields = one.fields.iter().zip(&other.fields);
                if !names { told() } else { fields.find_map(|(a, b)| within("field", &b.name, self.types(a.ty, b.ty))) }
            }
            (TypeDefKind::Variant(one), TypeDefKind::Variant(other)) => {
                let names = one.cases.iter().map(|c| &c.name).eq(other.cases.iter().map(|c| &c.name));
                let mut cases = one.cases.iter().zip(&other.cases);
                if !names {
                    told()
                } else {
                    cases.find_map(|(a, b)| within("case", &b.name, self.payloads(a.ty, b.ty)))
                }
            }
            (TypeDefKind::Enum(one), TypeDefKind::Enum(other)) => {
                let same = one.cases.iter().map(|c| &c.name).eq(other.cases.iter().map(|c| &c.name));
                if same { None } else { told() }
            }
            (TypeDefKind::Tuple(one), TypeDefKind::Tuple(other)) if one.types.len() == other.types.len() => {
                one.types.iter().zip(&other.types).find_map(|(a, b)| self.types(*a, *b))
            }
            (TypeDefKind::Option(one), TypeDefKind::Option(other))
            | (TypeDefKind::List(one), TypeDefKind::List(other)) => self.types(*one, *other),
            (TypeDefKind::Result(one), TypeDefKind::Result(other)) => {
                let ok = within("case", "ok", self.payloads(one.ok, other.ok));
                ok.or_else(|| within("case", "err", self.payloads(one.err, other.err)))
            }
            (TypeDefKind::Handle(Handle::Borrow(one)), TypeDefKind::Handle(Handle::Borrow(other)))
            | (TypeDefKind::Handle(Handle::Own(one)), TypeDefKind::Handle(Handle::Own(other))) => {
                self.types(Type::Id(*one), Type::Id(*other))
            }
            (TypeDefKind::Resource, TypeDefKind::Resource) => {
                let (one, other) = (&definition(self.has, has).name, &definition(self.contract, contract).name);
                if one == other { None } else { told() }
            }
            _ => told(),
        }
    }

    fn payloads(&self, has: Option<Type>, contract: Option<Type>) -> Option<String> {
        let text = |resolve, ty: Option<Type>| ty.map_or_else(|| "nothing".to_owned(), |ty| name(resolve, ty, 0));
        match (has, contract) {
            (Some(has), Some(contract)) => self.types(has, contract),
            (None, None) => None,
            _ => Some(format!("{}, the contract has {}", text(self.has, has), text(self.contract, contract))),
        }
    }

    /// By name, where the names tell them apart.
    fn told(&self, has: Type, contract: Type) -> String {
        let mut both = (name(self.has, has, 0), name(self.contract, contract, 0));
        if both.0 == both.1 {
            both = (content(self.has, has, 0), content(self.contract, contract, 0));
        }
        format!("{}, the contract has {}", both.0, both.1)
    }
}

fn within(kind: &str, name: &str, difference: Option<String>) -> Option<String> {
    difference.map(|difference| format!("{kind} {name}: {difference}"))
}

#[expect(clippy::indexing_slicing, reason = "an id is of the resolve that it was found in")]
fn definition(resolve: &Resolve, id: TypeId) -> &TypeDef {
    &resolve.types[id]
}

/// What an alias stands for.
fn target(resolve: &Resolve, ty: Type) -> Type {
    let mut ty = ty;
    while let Type::Id(id) = ty
        && let TypeDefKind::Type(other) = definition(resolve, id).kind
    {
        ty = other;
    }
    ty
}

fn signature(resolve: &Resolve, function: &Function) -> String {
    let params = function.params.iter().map(|param| format!("{}: {}", cut(&param.name), name(resolve, param.ty, 0)));
    let result = function.result.map_or_else(String::new, |ty| format!(" -> {}", name(resolve, ty, 0)));
    let kind = if function.kind.is_async() { "async func" } else { "func" };
    format!("{kind}({}){result}", listed(params))
}

/// A type by its name, where it has one.
fn name(resolve: &Resolve, ty: Type, depth: usize) -> String {
    match ty {
        Type::Id(id) => match &definition(resolve, id).name {
            Some(name) => cut(name),
            None => content(resolve, ty, depth),
        },
        primitive => format!("{primitive:?}").to_ascii_lowercase(),
    }
}

/// What a type is made of, by the names of that.
fn content(resolve: &Resolve, ty: Type, depth: usize) -> String {
    let Type::Id(id) = target(resolve, ty) else { return name(resolve, ty, depth) };
    if depth > MAX_DEPTH {
        return "…".to_owned();
    }
    let named = |ty: &Type| name(resolve, *ty, depth + 1);
    let optional = |ty: &Option<Type>| ty.as_ref().map_or_else(|| "_".to_owned(), named);
    match &definition(resolve, id).kind {
        TypeDefKind::Record(record) => {
            let fields = record.fields.iter().map(|field| format!("{}: {}", cut(&field.name), named(&field.ty)));
            format!("record {{ {} }}", listed(fields))
        }
        TypeDefKind::Variant(variant) => {
            let case = |case: &wit_parser::Case| match &case.ty {
                Some(ty) => format!("{}({})", cut(&case.name), named(ty)),
                None => cut(&case.name),
            };
            format!("variant {{ {} }}", listed(variant.cases.iter().map(case)))
        }
        TypeDefKind::Enum(cases) => format!("enum {{ {} }}", listed(cases.cases.iter().map(|case| cut(&case.name)))),
        TypeDefKind::Flags(flags) => format!("flags {{ {} }}", listed(flags.flags.iter().map(|flag| cut(&flag.name)))),
        TypeDefKind::Tuple(tuple) => format!("tuple<{}>", listed(tuple.types.iter().map(named))),
        TypeDefKind::Option(ty) => format!("option<{}>", named(ty)),
        TypeDefKind::List(ty) => format!("list<{}>", named(ty)),
        TypeDefKind::Result(result) => format!("result<{}, {}>", optional(&result.ok), optional(&result.err)),
        TypeDefKind::Handle(Handle::Own(id)) => named(&Type::Id(*id)),
        TypeDefKind::Handle(Handle::Borrow(id)) => format!("borrow<{}>", named(&Type::Id(*id))),
        other => other.as_str().to_owned(),
    }
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let mut names = names;
    let mut told: Vec<_> = names.by_ref().take(MAX_NAMES).collect();
    if names.next().is_some() {
        told.push("…".to_owned());
    }
    told.join(", ")
}

/// Names come from the component, which may be hostile.
fn cut(name: &str) -> String {
    name.chars().take(MAX_NAME).collect()
}

#[cfg(test)]
mod tests {
    use wit_parser::Resolve;

    use super::*;

    /// A package with one interface that has the function `f`.
    fn function(text: &str) -> (Resolve, Function) {
        let mut resolve = Resolve::default();
        resolve.push_source("test.wit", &format!("package test:test;\ninterface i {{ resource r; {text} }}")).unwrap();
        let function = resolve.interfaces.iter().find_map(|(_, i)| i.functions.get("f")).unwrap().clone();
        (resolve, function)
    }

    #[test]
    fn the_first_difference_is_told_by_its_place() {
        let reply = "record reply { code: u16, text: string }";
        for (has, contract, expected) in [
            ("f: func(a: u8) -> u8;", "f: func(b: u8) -> u8;", None),
            ("type t = u8; f: func(a: t);", "f: func(a: u8);", None),
            ("f: func(a: u8);", "f: func();", Some("f is func(a: u8), the contract has func()")),
            ("f: func();", "f: func() -> string;", Some("f is func(), the contract has func() -> string")),
            ("f: async func();", "f: func();", Some("f is async func(), the contract has func()")),
            ("f: func(a: u8, b: u32);", "f: func(a: u8, b: u64);", Some("f: parameter b: u32, the contract has u64")),
            (
                "record reply { code: u32, text: string } f: func() -> option<reply>;",
                &format!("{reply} f: func() -> option<reply>;"),
                Some("f: result: field code: u32, the contract has u16"),
            ),
            (
                "record reply { code: u16 } f: func(a: list<reply>);",
                &format!("{reply} f: func(a: list<reply>);"),
                Some("f: parameter a: record { code: u16 }, the contract has record { code: u16, text: string }"),
            ),
            (
                "variant v { next, accept, hold } f: func() -> v;",
                "variant v { next, accept } f: func() -> v;",
                Some("f: result: variant { next, accept, hold }, the contract has variant { next, accept }"),
            ),
            (
                "variant v { next, reject(string) } f: func() -> v;",
                "variant v { next, reject } f: func() -> v;",
                Some("f: result: case reject: string, the contract has nothing"),
            ),
            (
                "enum e { a, b } f: func(e: e);",
                "enum e { b, a } f: func(e: e);",
                Some("f: parameter e: enum { a, b }, the contract has enum { b, a }"),
            ),
            (
                "f: func() -> result<u8>;",
                "f: func() -> result<u8, u8>;",
                Some("f: result: case err: nothing, the contract has u8"),
            ),
            (
                "f: func(a: tuple<u8, u16>);",
                "f: func(a: tuple<u8, u8>);",
                Some("f: parameter a: u16, the contract has u8"),
            ),
            ("f: func(a: borrow<r>);", "f: func(a: borrow<r>);", None),
            ("f: func(a: r);", "f: func(a: borrow<r>);", Some("f: parameter a: r, the contract has borrow<r>")),
            ("flags g { a } f: func(a: g);", "f: func(a: r);", Some("f: parameter a: g, the contract has r")),
        ] {
            let (has, contract) = (function(has), function(contract));
            let found = difference((&has.0, &has.1), (&contract.0, &contract.1));
            assert_eq!(found.as_deref(), expected);
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let cases: Vec<_> = (0..100).map(|n| format!("c{n}")).collect();
        let has = function(&format!("enum e {{ {} }} f: func() -> e;", cases.join(", ")));
        let contract = function("enum e { a } f: func() -> e;");
        let found = difference((&has.0, &has.1), (&contract.0, &contract.1)).unwrap();
        assert!(found.contains("c15, … }, the contract has enum { a }"), "{found}");
    }
}

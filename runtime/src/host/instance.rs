//! One instance of a plugin in its own store, and the calls into it.

use std::sync::Arc;

use wasmtime::component::{self, ComponentExportIndex, ComponentNamedList, Lift, Lower, Resource, TypedFunc};
use wasmtime::{Engine, Store};

use super::abi::{self, GuestEvent, GuestRecipient, GuestVerdict, MessageHandle, SessionHandle};
use super::component::export;
use super::failure::{Phase, of_guest};
use super::limits::{Breach, Limits};
use super::state::{Asked, CallState, Environment};
use crate::pipeline::{Cause, Failure, Stage, StageSet};

type OfSession = (Resource<SessionHandle>,);
type OfMessage = (Resource<SessionHandle>, Resource<MessageHandle>);
type OfRecipient = (Resource<SessionHandle>, Resource<MessageHandle>, GuestRecipient);

/// A function of one instance, its type checked.
#[derive(Clone, Copy)]
enum Function {
    Session(TypedFunc<OfSession, (GuestVerdict,)>),
    Message(TypedFunc<OfMessage, (GuestVerdict,)>),
    Recipient(TypedFunc<OfRecipient, (GuestVerdict,)>),
    Event(TypedFunc<(GuestEvent,), ()>),
}

/// The functions of a component that may be called, found once when it is loaded.
#[derive(Clone, Default)]
pub(super) struct Exports {
    on_load: Option<ComponentExportIndex>,
    stages: Vec<(Stage, ComponentExportIndex)>,
}

impl Exports {
    pub fn find(component: &component::Component) -> Self {
        let stages = Stage::ALL.into_iter().filter_map(|stage| {
            let function = if stage == Stage::Event { "notify" } else { "judge" };
            export(component, &format!("on-{stage}"), function).map(|index| (stage, index))
        });
        Self { on_load: export(component, "on-load", "check"), stages: stages.collect() }
    }

    /// A stage whose interface is exported without its function.
    pub fn missing(&self, stages: StageSet) -> Option<Stage> {
        stages.iter().find(|stage| self.at(*stage).is_none())
    }

    fn at(&self, stage: Stage) -> Option<&ComponentExportIndex> {
        self.stages.iter().find(|(other, _)| *other == stage).map(|(_, index)| index)
    }
}

pub(super) struct Instance {
    pub store: Store<CallState>,
    /// `None` until it is instantiated.
    instance: Option<component::Instance>,
    /// Those called before, by stage: to check a type takes as long as a short call.
    functions: [Option<Function>; Stage::ALL.len()],
    pub calls: u32,
}

impl Instance {
    /// A store with nothing in it yet.
    pub fn new(engine: &Engine, environment: Arc<Environment>, limits: &Limits) -> Self {
        Self {
            store: CallState::store(engine, environment, limits),
            instance: None,
            functions: Default::default(),
            calls: 0,
        }
    }

    /// Drops what belongs to the last call. What stays is in the guest's own memory.
    pub fn forget(&mut self) {
        self.store.data_mut().begin(None, None);
    }

    /// Runs the start functions, on first use; they count as part of the call.
    async fn instantiate(&mut self, pre: &component::InstancePre<CallState>) -> Result<component::Instance, Failure> {
        // The first tick may fall at once; from there on each one is counted.
        self.store.set_epoch_deadline(1);
        if let Some(instance) = self.instance {
            return Ok(instance);
        }
        match pre.instantiate_async(&mut self.store).await {
            Ok(instance) => Ok(*self.instance.insert(instance)),
            Err(error) => Err(of_guest(&error, self.store.data(), Phase::Instantiate)),
        }
    }

    /// What it is asked with at that stage.
    fn function(
        &mut self,
        instance: component::Instance,
        exports: &Exports,
        stage: Stage,
    ) -> Result<Function, Failure> {
        if let Some(Some(known)) = self.functions.get(stage as usize) {
            return Ok(*known);
        }
        let Some(index) = exports.at(stage) else { return Err(not_exported(stage)) };
        let store = &mut self.store;
        let found = match stage {
            Stage::Connect | Stage::Helo => typed(instance, store, index).map(Function::Session),
            Stage::MailFrom | Stage::Data | Stage::Deliver => typed(instance, store, index).map(Function::Message),
            Stage::Rcpt => typed(instance, store, index).map(Function::Recipient),
            Stage::Event => typed(instance, store, index).map(Function::Event),
        };
        let found = found.map_err(|error| of_guest(&error, self.store.data(), Phase::Call))?;
        if let Some(place) = self.functions.get_mut(stage as usize) {
            *place = Some(found);
        }
        Ok(found)
    }

    async fn call<P, R>(&mut self, function: TypedFunc<P, R>, params: P) -> Result<R, Failure>
    where
        P: ComponentNamedList + Lower + Send + Sync + 'static,
        R: ComponentNamedList + Lift + Send + Sync + 'static,
    {
        self.calls += 1;
        let result = function.call_async(&mut self.store, params).await;
        result.map_err(|error| of_guest(&error, self.store.data(), Phase::Call))
    }

    pub async fn judge(
        &mut self,
        pre: &component::InstancePre<CallState>,
        exports: &Exports,
        asked: Asked,
        recipient: Option<GuestRecipient>,
    ) -> Result<GuestVerdict, Failure> {
        let stage = asked.stage;
        let id = asked.mail.as_ref().map(|mail| mail.id);
        self.store.data_mut().begin(Some(asked), id);
        let instance = self.instantiate(pre).await?;
        // The handles carry nothing: what they stand for is in the state.
        let session = || Resource::<SessionHandle>::new_borrow(0);
        let message = || Resource::<MessageHandle>::new_borrow(0);
        let (verdict,) = match (self.function(instance, exports, stage)?, recipient) {
            (Function::Session(function), _) => self.call(function, (session(),)).await?,
            (Function::Message(function), _) => self.call(function, (session(), message())).await?,
            (Function::Recipient(function), Some(recipient)) => {
                self.call(function, (session(), message(), recipient)).await?
            }
            (Function::Recipient(_), None) | (Function::Event(_), _) => return Err(not_exported(stage)),
        };
        Ok(verdict)
    }

    pub async fn tell(
        &mut self,
        pre: &component::InstancePre<CallState>,
        exports: &Exports,
        event: crate::pipeline::Event,
    ) -> Result<(), Failure> {
        self.store.data_mut().begin(None, Some(event.id));
        let instance = self.instantiate(pre).await?;
        match self.function(instance, exports, Stage::Event)? {
            Function::Event(function) => self.call(function, (abi::event(event),)).await,
            _ => Err(not_exported(Stage::Event)),
        }
    }

    /// Instantiates it, checks that each of its functions has the type of the contract, and asks `on-load.check`.
    /// The inner error is the plugin's own answer.
    pub async fn check(
        &mut self,
        pre: &component::InstancePre<CallState>,
        exports: &Exports,
    ) -> Result<Result<(), String>, Failure> {
        self.store.data_mut().begin(None, None);
        let instance = self.instantiate(pre).await?;
        for (stage, _) in &exports.stages {
            self.function(instance, exports, *stage)?;
        }
        match &exports.on_load {
            None => Ok(Ok(())),
            Some(index) => {
                let function = typed::<(), (Result<(), String>,)>(instance, &mut self.store, index);
                let function = function.map_err(|error| of_guest(&error, self.store.data(), Phase::Call))?;
                let (answer,) = self.call(function, ()).await?;
                Ok(answer)
            }
        }
    }
}

fn typed<P, R>(
    instance: component::Instance,
    store: &mut Store<CallState>,
    index: &ComponentExportIndex,
) -> wasmtime::Result<TypedFunc<P, R>>
where
    P: ComponentNamedList + Lower,
    R: ComponentNamedList + Lift,
{
    let wrong = |error: wasmtime::Error| {
        Breach::new(Cause::Malformed, format!("a function that is not as the contract has it: {error:#}"))
    };
    Ok(instance.get_typed_func::<P, R>(&mut *store, index).map_err(wrong)?)
}

fn not_exported(stage: Stage) -> Failure {
    Failure { cause: Cause::Host, detail: format!("asked at {stage}, which it does not have") }
}

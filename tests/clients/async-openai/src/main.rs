//! Talks to `peft serve` by the crate `async-openai`: `cargo run -- http://127.0.0.1:8000/v1 BASE ADAPTER ADAPTER`.
//! Anything that the server answers otherwise than expected ends it with an error.

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::types::{
    ChatCompletionRequestUserMessageArgs, CreateChatCompletionRequest, CreateChatCompletionRequestArgs,
    CreateCompletionRequestArgs, FinishReason, Stop,
};
use futures::StreamExt;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn chat(model: &str) -> Result<CreateChatCompletionRequest> {
    let user = ChatCompletionRequestUserMessageArgs::default().content("Who are you?").build()?;
    let mut request = CreateChatCompletionRequestArgs::default();
    Ok(request.model(model).messages([user.into()]).max_completion_tokens(12_u32).temperature(0.0).build()?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let mut args = std::env::args().skip(1);
    let address = args.next().ok_or("give the server's address and the names of two models or more")?;
    let names: Vec<String> = args.collect();
    let client = Client::with_config(OpenAIConfig::new().with_api_base(address).with_api_key("none"));

    let models: Vec<String> = client.models().list().await?.data.into_iter().map(|model| model.id).collect();
    assert!(names.iter().all(|name| models.contains(name)), "{names:?} and {models:?}");

    let mut texts = Vec::new();
    for name in &names {
        let whole = client.chat().create(chat(name)?).await?;
        let text = whole.choices[0].message.content.clone().unwrap_or_default();
        let mut stream = client.chat().create_stream(chat(name)?).await?;
        let (mut streamed, mut end) = (String::new(), None);
        while let Some(chunk) = stream.next().await {
            for choice in chunk?.choices {
                streamed.push_str(choice.delta.content.as_deref().unwrap_or_default());
                end = choice.finish_reason.or(end);
            }
        }
        assert_eq!(streamed, text, "{name}");
        assert!(matches!(end, Some(FinishReason::Stop | FinishReason::Length)));
        texts.push(text);
    }
    println!("{texts:#?}");

    let mut many = chat(&names[0])?;
    (many.n, many.seed, many.temperature, many.logprobs, many.top_logprobs) = (Some(3), Some(1), Some(1.0), Some(true), Some(2));
    let many = client.chat().create(many).await?;
    assert_eq!(many.choices.len(), 3);
    for choice in &many.choices {
        let content = choice.logprobs.as_ref().and_then(|all| all.content.as_ref()).ok_or("no log-probabilities")?;
        assert!(content.iter().all(|token| token.logprob <= 0.0 && token.top_logprobs.len() == 2));
    }

    let complete = |stop: Option<String>| {
        let mut request = CreateCompletionRequestArgs::default();
        request.model(&names[0]).prompt("The courier").max_tokens(20_u32).temperature(0.0);
        if let Some(stop) = stop {
            request.stop(Stop::String(stop));
        }
        request.build()
    };
    let whole = client.completions().create(complete(None)?).await?.choices.remove(0).text;
    let stop: String = whole.chars().skip(4).take(3).collect();
    let cut = client.completions().create(complete(Some(stop.clone()))?).await?.choices.remove(0).text;
    assert_eq!(Some(cut.as_str()), whole.split(&stop).next());

    match client.chat().create(chat("nobody")?).await {
        Err(OpenAIError::ApiError(error)) => assert!(error.message.contains("nobody"), "{error}"),
        other => return Err(format!("an unknown model was answered: {other:?}").into()),
    }
    Ok(())
}

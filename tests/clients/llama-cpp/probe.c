// What llama.cpp makes of a GGUF file: logits of every position, and a file that it quantised itself.
//
//     probe logits MODEL.gguf OUT.f32 ID,ID,...  [LORA.gguf]
//     probe quantize IN.gguf OUT.gguf q8_0|q4_k_m
//     probe time MODEL.gguf THREADS PROMPT TOKENS      milliseconds for a token after a prompt: the median
//     probe tenants MODEL.gguf THREADS PROMPT TOKENS COUNT LORA.gguf
//                                                      new tokens a second of COUNT requests, each with an adapter of its own
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ggml-backend.h"
#include "llama.h"

static void quiet(enum ggml_log_level level, const char *text, void *data) {
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static int fail(const char *what) {
    fprintf(stderr, "probe: %s\n", what);
    return 1;
}

static int quantize(const char *from, const char *to, const char *kind) {
    struct llama_model_quantize_params params = llama_model_quantize_default_params();
    params.ftype = strcmp(kind, "q8_0") ? LLAMA_FTYPE_MOSTLY_Q4_K_M : LLAMA_FTYPE_MOSTLY_Q8_0;
    return llama_model_quantize(from, to, &params) ? fail("it cannot be quantised") : 0;
}

static int logits(const char *path, const char *out, char *ids, const char *lora) {
    static llama_token tokens[4096];
    int count = 0;
    for (char *id = strtok(ids, ","); id; id = strtok(NULL, ",")) {
        if (count == 4096) return fail("too many tokens");
        tokens[count++] = atoi(id);
    }
    struct llama_model *model = llama_model_load_from_file(path, llama_model_default_params());
    if (!model) return fail("the model cannot be loaded");
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = count;
    params.n_outputs_max = count;
    params.n_threads = params.n_threads_batch = 2;
    // In full precision: what is compared is the model, and not a cache of halves.
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    struct llama_context *context = llama_init_from_model(model, params);
    if (!context) return fail("no context");
    if (lora) {
        struct llama_adapter_lora *adapter = llama_adapter_lora_init(model, lora);
        float scale = 1;
        if (!adapter || llama_set_adapters_lora(context, &adapter, 1, &scale)) return fail("the adapter cannot be loaded");
    }
    struct llama_batch batch = llama_batch_init(count, 0, 1);
    batch.n_tokens = count;
    for (int i = 0; i < count; i++) {
        batch.token[i] = tokens[i];
        batch.pos[i] = i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = 1;
    }
    if (llama_decode(context, batch)) return fail("the tokens cannot be computed");
    int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    FILE *file = fopen(out, "wb");
    if (!file) return fail("the output cannot be written");
    for (int i = 0; i < count; i++) fwrite(llama_get_logits_ith(context, i), sizeof(float), vocab, file);
    return fclose(file) ? fail("the output cannot be written") : 0;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * t.tv_sec + 1e-6 * t.tv_nsec;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// A context for `tokens` tokens, of which `prompt` come at once.
static struct llama_context *open_context(struct llama_model *model, int threads, int prompt, int tokens) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = tokens;
    params.n_batch = params.n_ubatch = prompt;
    params.n_threads = params.n_threads_batch = threads;
    return llama_init_from_model(model, params);
}

static llama_token likeliest(const float *logits, int vocab) {
    llama_token best = 0;
    for (int id = 1; id < vocab; id++) if (logits[id] > logits[best]) best = id;
    return best;
}

static int speed(const char *path, int threads, int prompt, int count) {
    static llama_token tokens[4096];
    static double times[4096];
    if (prompt < 1 || prompt > 4096 || count < 1 || count > 4096) return fail("1 to 4096 tokens");
    struct llama_model *model = llama_model_load_from_file(path, llama_model_default_params());
    if (!model) return fail("the model cannot be loaded");
    struct llama_context *context = open_context(model, threads, prompt, prompt + count);
    if (!context) return fail("no context");
    int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    for (int i = 0; i < prompt; i++) tokens[i] = (i * 7 + 3) % vocab;
    if (llama_decode(context, llama_batch_get_one(tokens, prompt))) return fail("the prompt cannot be computed");
    for (int i = 0; i < count; i++) {
        const float *logits = llama_get_logits_ith(context, -1);
        double begun = now();
        llama_token next = likeliest(logits, vocab);
        if (llama_decode(context, llama_batch_get_one(&next, 1))) return fail("a token cannot be computed");
        llama_synchronize(context);
        times[i] = now() - begun;
    }
    qsort(times, count, sizeof *times, by_size);
    printf("%.3f\n", times[count / 2]);
    return 0;
}

// One request after the other: a context has one adapter at a time, and llama.cpp's server, too, batches only requests with
// the same one.
static int tenants(const char *path, int threads, int prompt, int count, int requests, const char *lora) {
    static llama_token tokens[4096];
    static struct llama_adapter_lora *adapters[1024];
    if (prompt < 1 || prompt > 4096 || count < 1 || requests < 1 || requests > 1024) return fail("1 to 4096 tokens, 1 to 1024 requests");
    struct llama_model *model = llama_model_load_from_file(path, llama_model_default_params());
    if (!model) return fail("the model cannot be loaded");
    for (int i = 0; i < requests; i++)
        if (!(adapters[i] = llama_adapter_lora_init(model, lora))) return fail("the adapter cannot be loaded");
    struct llama_context *context = open_context(model, threads, prompt, prompt + count);
    if (!context) return fail("no context");
    int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    double begun = now();
    for (int r = 0; r < requests; r++) {
        float scale = 1;
        llama_memory_clear(llama_get_memory(context), true);
        if (llama_set_adapters_lora(context, &adapters[r], 1, &scale)) return fail("the adapter cannot be used");
        for (int i = 0; i < prompt; i++) tokens[i] = ((i + r) * 7 + 3) % vocab;
        if (llama_decode(context, llama_batch_get_one(tokens, prompt))) return fail("the prompt cannot be computed");
        for (int i = 0; i < count; i++) {
            llama_token next = likeliest(llama_get_logits_ith(context, -1), vocab);
            // The last token is not computed further.
            if (i + 1 < count && llama_decode(context, llama_batch_get_one(&next, 1))) return fail("a token cannot be computed");
        }
    }
    printf("%.3f\n", 1e3 * requests * count / (now() - begun));
    return 0;
}

int main(int argc, char **argv) {
    llama_log_set(quiet, NULL);
    // The CPU's code lies beside the library, a file for each kind of processor.
    if (getenv("LLAMA_LIBRARIES")) ggml_backend_load_all_from_path(getenv("LLAMA_LIBRARIES"));
    if (argc == 5 && !strcmp(argv[1], "quantize")) return quantize(argv[2], argv[3], argv[4]);
    if ((argc == 5 || argc == 6) && !strcmp(argv[1], "logits")) return logits(argv[2], argv[3], argv[4], argv[5]);
    if (argc == 6 && !strcmp(argv[1], "time")) return speed(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
    if (argc == 8 && !strcmp(argv[1], "tenants"))
        return tenants(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[5]), atoi(argv[6]), argv[7]);
    return fail("see the top of probe.c");
}

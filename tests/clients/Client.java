// Java's own client: asks what the lines of a plan say, and prints what it read, a line each.
// java Client.java PLAN; each ask on a client of its own, then all on one.

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Base64;
import java.util.List;

public class Client {
    public static void main(String[] arguments) throws Exception {
        List<String> plan = Files.readAllLines(Path.of(arguments[0]));
        for (String line : plan) {
            ask(HttpClient.newHttpClient(), line);
        }
        HttpClient one = HttpClient.newHttpClient();
        for (String line : plan) {
            ask(one, line);
        }
        System.exit(0);
    }

    static void ask(HttpClient client, String line) throws Exception {
        String[] parts = line.split("\t");
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(parts[0]))
            .timeout(Duration.ofSeconds(60))
            .POST(HttpRequest.BodyPublishers.ofFile(Path.of(parts[1])));
        for (int n = 2; n < parts.length; n++) {
            String[] field = parts[n].split(": ", 2);
            request.header(field[0], field[1]);
        }
        HttpResponse<byte[]> answer =
            client.send(request.build(), HttpResponse.BodyHandlers.ofByteArray());
        StringBuilder fields = new StringBuilder();
        answer.headers().map().forEach((name, values) ->
            fields.append(name).append(": ").append(values.get(0)).append("\n"));
        Base64.Encoder base64 = Base64.getEncoder();
        System.out.println(answer.statusCode() + "\t"
            + base64.encodeToString(fields.toString().getBytes("UTF-8")) + "\t"
            + base64.encodeToString(answer.body()));
    }
}
